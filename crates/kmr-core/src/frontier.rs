//! The multiple-choice knapsack: one item of each variable, the least loss for every cost at once.
//!
//! Losses add up. Costs add up over the variables and over [`Coupling`]s, which correct the sum for
//! several variables at once (a layer's bytes depend on its bits and on the channels that its
//! producer and itself have left). The solver eliminates one variable after the other (U. Bertelè
//! and F. Brioschi, Nonserial Dynamic Programming, 1972), holding for every joint choice of the
//! neighbors the list of (cost, loss) pairs that none dominates. So it is exact: in one pass where
//! variables are independent, along chains and up trees where they are coupled, and over loops
//! as far as the neighbors' joint choices stay within [`JOINT_LIMIT`].
//!
//! ```
//! use kmr_core::frontier::{Item, Table};
//!
//! let item = |cost, loss| Item { cost, loss };
//! let variables = vec![vec![item(10, 0.0), item(4, 0.1)], vec![item(20, 0.0), item(5, 0.3)]];
//! let frontier = Table::new(variables, vec![])?.frontier();
//! assert_eq!(frontier.best_within(25).unwrap().choices, [1, 0]);
//! assert_eq!(frontier.best_within(15).unwrap().choices, [0, 1]);
//! assert_eq!(frontier.best_within(8), None);
//! # Ok::<(), kmr_core::frontier::TableError>(())
//! ```

use thiserror::Error;

/// The most points that a list keeps. Past it, a list keeps its lower convex hull, which is all that
/// a Lagrangian relaxation can reach, and between the hull's corners the best point of each of
/// equally wide intervals of cost; [`Frontier::gap`] then bounds what was given up.
pub const LIST_LIMIT: usize = 8192;

/// The most joint choices of a variable's neighbors when it is eliminated. Past it, the weakest
/// coupling is left out of the model.
pub const JOINT_LIMIT: usize = 1024;

/// The most points that the lists of all joint choices of neighbors keep together, but for the
/// hulls' corners.
const TOTAL_LIMIT: usize = 1 << 18;

/// One choice for a variable.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Item {
    /// What it costs, in whole units.
    pub cost: i64,
    /// What it loses.
    pub loss: f64,
}

/// What joint choices of several variables cost beyond the sum of their items.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Coupling {
    /// The variables, each once.
    pub variables: Vec<usize>,
    /// The cost of every joint choice; the last variable's choice changes fastest.
    pub costs: Vec<i64>,
}

impl Coupling {
    /// The greatest amount by which it corrects any cost.
    fn strength(&self) -> u64 {
        self.costs.iter().map(|cost| cost.unsigned_abs()).max().unwrap_or(0)
    }
}

/// A table that is none.
#[derive(Clone, Debug, PartialEq, Error)]
#[non_exhaustive]
pub enum TableError {
    /// A variable without items.
    #[error("variable {variable} has no items")]
    NoItems {
        /// The variable.
        variable: usize,
    },
    /// A loss that is NaN or infinite.
    #[error("the loss of item {item} of variable {variable} is {loss}, which is not a finite number")]
    NotFinite {
        /// The variable.
        variable: usize,
        /// The item.
        item: usize,
        /// The loss.
        loss: f64,
    },
    /// A coupling of variables that are repeated or unknown, or with too few or too many costs.
    #[error("coupling {coupling} does not fit its variables")]
    Misfit {
        /// The coupling.
        coupling: usize,
    },
    /// Costs whose sum is beyond 64 bits.
    #[error("the costs add up to more than 64 bits can hold")]
    Overflow,
}

/// Variables with their items, and what couples them.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Table {
    variables: Vec<Vec<Item>>,
    couplings: Vec<Coupling>,
}

impl Table {
    /// Checks the parts against one another.
    ///
    /// # Errors
    /// See [`TableError`].
    pub fn new(variables: Vec<Vec<Item>>, couplings: Vec<Coupling>) -> Result<Self, TableError> {
        let mut largest = 0_i64;
        let mut count = |costs: &mut dyn Iterator<Item = i64>| {
            let most = costs.map(i64::unsigned_abs).max().unwrap_or(0);
            let sum = i64::try_from(most).ok().and_then(|most| largest.checked_add(most));
            largest = sum.ok_or(TableError::Overflow)?;
            Ok(())
        };
        for (variable, items) in variables.iter().enumerate() {
            if items.is_empty() {
                return Err(TableError::NoItems { variable });
            }
            if let Some(item) = items.iter().position(|item| !item.loss.is_finite()) {
                let loss = items[item].loss;
                return Err(TableError::NotFinite { variable, item, loss });
            }
            count(&mut items.iter().map(|item| item.cost))?;
        }
        for (at, coupling) in couplings.iter().enumerate() {
            let choices = |&variable: &usize| variables.get(variable).map(Vec::len);
            let sizes: Option<Vec<usize>> = coupling.variables.iter().map(choices).collect();
            let fits = sizes.is_some_and(|sizes| sizes.iter().product::<usize>() == coupling.costs.len());
            let mut once = coupling.variables.clone();
            once.sort_unstable();
            once.dedup();
            if !fits || once.is_empty() || once.len() < coupling.variables.len() {
                return Err(TableError::Misfit { coupling: at });
            }
            count(&mut coupling.costs.iter().copied())?;
        }
        Ok(Table { variables, couplings })
    }

    /// The items of every variable.
    pub fn variables(&self) -> &[Vec<Item>] {
        &self.variables
    }

    /// The cost of a joint choice, one item for each variable.
    ///
    /// # Panics
    /// When there are not as many choices as variables, or one is out of range.
    pub fn cost(&self, choices: &[usize]) -> i64 {
        let alone: i64 = self
            .variables
            .iter()
            .zip(choices)
            .map(|(items, &choice)| items[choice].cost)
            .sum();
        let coupled = self
            .couplings
            .iter()
            .map(|coupling| coupling.costs[self.position(&coupling.variables, choices)]);
        alone + coupled.sum::<i64>()
    }

    /// The loss of a joint choice.
    ///
    /// # Panics
    /// As [`Table::cost`].
    pub fn loss(&self, choices: &[usize]) -> f64 {
        self.variables
            .iter()
            .zip(choices)
            .map(|(items, &choice)| items[choice].loss)
            .sum()
    }

    /// Where the choices of `scope` are in a list of all its joint choices.
    fn position(&self, scope: &[usize], choices: &[usize]) -> usize {
        scope.iter().fold(0, |at, &variable| {
            at * self.variables[variable].len() + choices[variable]
        })
    }

    /// Sets the choices of `scope` to those at a position.
    fn choose(&self, position: usize, scope: &[usize], choices: &mut [usize]) {
        scope.iter().rev().fold(position, |rest, &variable| {
            let items = self.variables[variable].len();
            choices[variable] = rest % items;
            rest / items
        });
    }

    /// Solves for every budget at once.
    pub fn frontier(&self) -> Frontier {
        self.frontier_within(LIST_LIMIT)
    }

    /// As [`Table::frontier`], with lists of at most `limit` points.
    pub fn frontier_within(&self, limit: usize) -> Frontier {
        let mut solver = Solver {
            table: self,
            couplings: self.couplings.iter().enumerate().collect(),
            factors: Vec::new(),
            choices: Vec::new(),
            exact: true,
            limit: limit.max(2),
        };
        let mut left: Vec<usize> = (0..self.variables.len()).collect();
        let mut dropped = Vec::new();
        while let Some((position, joint)) = solver.easiest(&left) {
            if joint > JOINT_LIMIT
                && let Some(coupling) = solver.drop_weakest()
            {
                dropped.push(coupling);
                continue;
            }
            solver.eliminate(left.remove(position));
        }
        let points = solver.joined();
        let Solver { choices, exact, .. } = solver;
        Frontier {
            variables: self.variables.len(),
            points,
            choices,
            exact,
            dropped,
        }
    }
}

/// A pair that no other of its list dominates. Lists are in order of rising cost and falling loss.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Point<O> {
    cost: i64,
    loss: f64,
    origin: O,
}

/// How a point came about.
#[derive(Clone, Copy, Debug)]
enum Choice {
    /// By an item of a variable.
    Item { variable: usize, item: usize },
    /// By joining two earlier ones.
    Both(usize, usize),
}

/// The lists of what was eliminated, for every joint choice of `scope`, whose last variable changes
/// fastest. The origins of the points are positions among the solver's choices.
struct Factor {
    scope: Vec<usize>,
    lists: Vec<Vec<Point<usize>>>,
}

struct Solver<'t> {
    table: &'t Table,
    couplings: Vec<(usize, &'t Coupling)>,
    factors: Vec<Factor>,
    choices: Vec<Choice>,
    exact: bool,
    limit: usize,
}

impl Solver<'_> {
    /// The position of the variable whose neighbors have the fewest joint choices, and their number.
    fn easiest(&self, left: &[usize]) -> Option<(usize, usize)> {
        let joint = |&variable: &usize| {
            let sizes = self
                .neighbors(variable)
                .into_iter()
                .map(|at| self.table.variables[at].len());
            sizes.fold(1, usize::saturating_mul)
        };
        left.iter()
            .map(joint)
            .enumerate()
            .min_by_key(|&(position, joint)| (joint, position))
    }

    /// The variables that `variable` is coupled with, directly or by what was eliminated.
    fn neighbors(&self, variable: usize) -> Vec<usize> {
        let couplings = self.couplings.iter().map(|(_, coupling)| &coupling.variables);
        let scopes = couplings.chain(self.factors.iter().map(|factor| &factor.scope));
        let mine = scopes.filter(|scope| scope.contains(&variable)).flatten();
        let mut neighbors: Vec<usize> = mine.copied().filter(|&other| other != variable).collect();
        neighbors.sort_unstable();
        neighbors.dedup();
        neighbors
    }

    fn drop_weakest(&mut self) -> Option<usize> {
        let weakest = (0..self.couplings.len()).min_by_key(|&at| self.couplings[at].1.strength())?;
        Some(self.couplings.remove(weakest).0)
    }

    /// Replaces a variable with its couplings and factors by one factor over its neighbors.
    fn eliminate(&mut self, variable: usize) {
        let scope = self.neighbors(variable);
        let couplings = self
            .couplings
            .extract_if(.., |(_, coupling)| coupling.variables.contains(&variable));
        let couplings: Vec<_> = couplings.map(|(_, coupling)| coupling).collect();
        let factors = self.factors.extract_if(.., |factor| factor.scope.contains(&variable));
        let factors: Vec<_> = factors.collect();

        let table = self.table;
        let items = &table.variables[variable];
        let first = self.choices.len();
        self.choices
            .extend((0..items.len()).map(|item| Choice::Item { variable, item }));
        let joint: usize = scope.iter().map(|&at| table.variables[at].len()).product();
        let limit = (TOTAL_LIMIT / joint).clamp(2, self.limit);
        let mut chosen = vec![0; table.variables.len()];
        let mut lists = Vec::with_capacity(joint);
        for at in 0..joint {
            table.choose(at, &scope, &mut chosen);
            let mut list = Vec::new();
            for (item, &Item { cost, loss }) in items.iter().enumerate() {
                chosen[variable] = item;
                let coupled: i64 = couplings
                    .iter()
                    .map(|one| one.costs[table.position(&one.variables, &chosen)])
                    .sum();
                let alone = vec![Point {
                    cost: cost + coupled,
                    loss,
                    origin: first + item,
                }];
                let joined = factors.iter().fold(alone, |joined, factor| {
                    self.join(&joined, &factor.lists[table.position(&factor.scope, &chosen)], limit)
                });
                list = merged(&list, joined.into_iter());
            }
            lists.push(self.thinned(list, limit));
        }
        self.factors.push(Factor { scope, lists });
    }

    /// What is left when every variable is eliminated: one list for each component.
    fn joined(&mut self) -> Vec<Point<usize>> {
        let lists = std::mem::take(&mut self.factors)
            .into_iter()
            .flat_map(|factor| factor.lists);
        lists
            .reduce(|one, other| self.join(&one, &other, self.limit))
            .unwrap_or_default()
    }

    /// Every point of the one with every point of the other, without those that are dominated.
    fn join(&mut self, one: &[Point<usize>], other: &[Point<usize>], limit: usize) -> Vec<Point<usize>> {
        let (short, long) = if one.len() <= other.len() {
            (one, other)
        } else {
            (other, one)
        };
        let mut joined: Vec<Point<(usize, usize)>> = Vec::new();
        for left in short {
            let sums = long.iter().map(|right| Point {
                cost: left.cost + right.cost,
                loss: left.loss + right.loss,
                origin: (left.origin, right.origin),
            });
            joined = merged(&joined, sums);
            if joined.len() > 2 * limit {
                joined = self.thinned(joined, limit);
            }
        }
        let joined = self.thinned(joined, limit);
        let first = self.choices.len();
        self.choices
            .extend(joined.iter().map(|point| Choice::Both(point.origin.0, point.origin.1)));
        let points = joined.into_iter().zip(first..);
        points
            .map(|(Point { cost, loss, .. }, origin)| Point { cost, loss, origin })
            .collect()
    }

    fn thinned<O: Copy>(&mut self, list: Vec<Point<O>>, limit: usize) -> Vec<Point<O>> {
        if list.len() <= limit {
            return list;
        }
        self.exact = false;
        let corners = hull(&list);
        let (first, last) = (list[0].cost, list[list.len() - 1].cost);
        let width = (last - first) / limit as i64 + 1;
        let interval = |at: usize| (list[at].cost - first) / width;
        let ends = (0..list.len()).filter(|&at| at + 1 == list.len() || interval(at) < interval(at + 1));
        let mut kept: Vec<usize> = corners.into_iter().chain(ends).collect();
        kept.sort_unstable();
        kept.dedup();
        kept.into_iter().map(|at| list[at]).collect()
    }
}

/// Two lists in one, without points that are dominated; of equal points the first list's.
fn merged<O: Copy>(one: &[Point<O>], other: impl Iterator<Item = Point<O>>) -> Vec<Point<O>> {
    let mut merged: Vec<Point<O>> = Vec::with_capacity(one.len() + other.size_hint().0);
    let (mut one, mut other) = (one.iter().copied().peekable(), other.peekable());
    loop {
        let next = match (one.peek(), other.peek()) {
            (Some(left), Some(right)) if (right.cost, right.loss) < (left.cost, left.loss) => other.next(),
            (Some(_), _) => one.next(),
            (None, _) => other.next(),
        };
        match next {
            None => return merged,
            Some(point) if merged.last().is_none_or(|last| point.loss < last.loss) => merged.push(point),
            Some(_) => {}
        }
    }
}

/// The positions of the corners of a list's lower convex hull.
fn hull<O>(list: &[Point<O>]) -> Vec<usize> {
    let mut corners: Vec<usize> = Vec::new();
    for (at, point) in list.iter().enumerate() {
        while let [.., before, corner] = corners[..] {
            let (before, corner) = (&list[before], &list[corner]);
            let slope = |to: &Point<O>| (to.loss - before.loss) / (to.cost - before.cost) as f64;
            if slope(corner) < slope(point) {
                break;
            }
            corners.pop();
        }
        corners.push(at);
    }
    corners
}

/// A joint choice that no other dominates.
#[derive(Clone, Debug, PartialEq)]
pub struct Solution {
    /// Its cost.
    pub cost: i64,
    /// Its loss.
    pub loss: f64,
    /// The item of every variable.
    pub choices: Vec<usize>,
}

/// The least loss for every cost.
#[derive(Clone, Debug)]
pub struct Frontier {
    variables: usize,
    points: Vec<Point<usize>>,
    choices: Vec<Choice>,
    exact: bool,
    dropped: Vec<usize>,
}

impl Frontier {
    /// How many solutions it has.
    pub fn len(&self) -> usize {
        self.points.len()
    }

    /// Whether it has none: there were no variables.
    pub fn is_empty(&self) -> bool {
        self.points.is_empty()
    }

    /// The solution at a position: the cheapest first, each next one dearer and less lossy.
    pub fn solution(&self, position: usize) -> Option<Solution> {
        let &Point { cost, loss, origin } = self.points.get(position)?;
        let mut choices = vec![0; self.variables];
        let mut open = vec![origin];
        while let Some(at) = open.pop() {
            match self.choices[at] {
                Choice::Item { variable, item } => choices[variable] = item,
                Choice::Both(one, other) => open.extend([one, other]),
            }
        }
        Some(Solution { cost, loss, choices })
    }

    /// The solutions from the cheapest to the least lossy.
    pub fn solutions(&self) -> impl DoubleEndedIterator<Item = Solution> {
        (0..self.len()).filter_map(|position| self.solution(position))
    }

    /// The solutions that cost at most `budget`, the least lossy first.
    pub fn within(&self, budget: i64) -> impl Iterator<Item = Solution> {
        let within = self.points.partition_point(|point| point.cost <= budget);
        (0..within).rev().filter_map(|position| self.solution(position))
    }

    /// The solution of least loss among those that cost at most `budget`.
    pub fn best_within(&self, budget: i64) -> Option<Solution> {
        self.within(budget).next()
    }

    /// Whether no list had to be thinned: every solution is optimal for its cost, in the table
    /// without the [`dropped`](Frontier::dropped) couplings.
    pub fn is_exact(&self) -> bool {
        self.exact
    }

    /// The couplings that were left out, by position, weakest first.
    pub fn dropped(&self) -> &[usize] {
        &self.dropped
    }

    /// By how much the loss at a budget can at most be above the optimum: the distance to the lower
    /// convex hull. Zero when the frontier is exact; none when nothing is within the budget.
    pub fn gap(&self, budget: i64) -> Option<f64> {
        let within = self.points.partition_point(|point| point.cost <= budget);
        let best = self.points.get(within.checked_sub(1)?)?;
        let corners = hull(&self.points);
        let after = corners.partition_point(|&corner| self.points[corner].cost <= budget);
        let (Some(&after), false) = (corners.get(after), self.exact) else {
            return Some(0.0);
        };
        let before = corners[corners.partition_point(|&corner| corner < after) - 1];
        let (before, after) = (&self.points[before], &self.points[after]);
        let share = (budget - before.cost) as f64 / (after.cost - before.cost) as f64;
        Some((best.loss - before.loss - share * (after.loss - before.loss)).max(0.0))
    }
}
