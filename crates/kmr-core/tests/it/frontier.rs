//! The knapsack's solver against brute force.

use kmr_core::frontier::{Coupling, Frontier, Item, JOINT_LIMIT, Table, TableError};
use proptest::prelude::*;

use crate::toy::Dice;

#[derive(Clone, Copy, Debug)]
enum Shape {
    Independent,
    Chain,
    Star,
    Tree,
    Loop,
    Triples,
}

const SHAPES: [Shape; 6] = [
    Shape::Independent,
    Shape::Chain,
    Shape::Star,
    Shape::Tree,
    Shape::Loop,
    Shape::Triples,
];

fn scopes(shape: Shape, count: usize, dice: &mut Dice) -> Vec<Vec<usize>> {
    match shape {
        Shape::Independent => vec![],
        Shape::Chain => (1..count).map(|at| vec![at - 1, at]).collect(),
        Shape::Star => (1..count).map(|at| vec![at, 0]).collect(),
        Shape::Tree => (1..count).map(|at| vec![dice.roll(at), at]).collect(),
        Shape::Loop => (0..count).map(|at| vec![at, (at + 1) % count]).collect(),
        Shape::Triples => (2..count).map(|at| vec![at - 2, at, at - 1]).collect(),
    }
}

/// Few different costs and losses, so that ties abound; some costs below zero.
fn table(shape: Shape, seed: u64) -> Table {
    let mut dice = Dice::new(seed);
    let count = 3 + dice.roll(3);
    let variables: Vec<Vec<Item>> = (0..count)
        .map(|_| {
            let items = 1 + dice.roll(4);
            let item = |_| Item {
                cost: dice.roll(30) as i64 - 3,
                loss: dice.roll(12) as f64 / 8.0,
            };
            (0..items).map(item).collect()
        })
        .collect();
    let couple = |scope: Vec<usize>| {
        let joint: usize = scope.iter().map(|&at| variables[at].len()).product();
        Coupling {
            variables: scope,
            costs: (0..joint).map(|_| dice.roll(25) as i64 - 12).collect(),
        }
    };
    let couplings = scopes(shape, count, &mut Dice::new(seed))
        .into_iter()
        .map(couple)
        .collect();
    Table::new(variables, couplings).unwrap()
}

fn every_choice(table: &Table) -> Vec<Vec<usize>> {
    table.variables().iter().fold(vec![vec![]], |choices, items| {
        let longer = choices.iter().flat_map(|choice: &Vec<usize>| {
            (0..items.len()).map(move |item| choice.iter().copied().chain([item]).collect())
        });
        longer.collect()
    })
}

fn best_by_force(table: &Table, budget: i64) -> Option<f64> {
    let choices = every_choice(table).into_iter();
    let within = choices.filter(|choice| table.cost(choice) <= budget);
    within.map(|choice| table.loss(&choice)).min_by(f64::total_cmp)
}

fn check(table: &Table, frontier: &Frontier) {
    for budget in -60..200 {
        let found = frontier.best_within(budget);
        assert_eq!(
            found.as_ref().map(|best| best.loss),
            best_by_force(table, budget),
            "{budget}"
        );
        if let Some(best) = found {
            assert!(best.cost <= budget);
            assert_eq!(
                (table.cost(&best.choices), table.loss(&best.choices)),
                (best.cost, best.loss)
            );
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    #[test]
    fn every_budget_is_solved_as_by_brute_force(seed: u64, shape in 0..SHAPES.len()) {
        let table = table(SHAPES[shape], seed);
        let frontier = table.frontier();
        prop_assert!(frontier.is_exact() && frontier.dropped().is_empty());
        check(&table, &frontier);
        let again: Vec<_> = table.frontier().solutions().collect();
        prop_assert_eq!(frontier.solutions().collect::<Vec<_>>(), again);
        for (cheaper, dearer) in frontier.solutions().zip(frontier.solutions().skip(1)) {
            prop_assert!(cheaper.cost < dearer.cost && cheaper.loss > dearer.loss);
        }
    }

    #[test]
    fn thinned_lists_stay_within_the_stated_gap(seed: u64, shape in 0..SHAPES.len()) {
        let table = table(SHAPES[shape], seed);
        let frontier = table.frontier_within(2);
        for budget in -60..200 {
            let best = best_by_force(&table, budget);
            prop_assert_eq!(frontier.gap(budget).is_some(), best.is_some(), "{}", budget);
            if let (Some(found), Some(gap), Some(best)) = (frontier.best_within(budget), frontier.gap(budget), best) {
                prop_assert!(found.cost <= budget && table.cost(&found.choices) == found.cost);
                prop_assert!(found.loss >= best, "{} is better than the best, {}", found.loss, best);
                prop_assert!(found.loss - gap <= best + 1e-9, "{} with gap {} misses {}", found.loss, gap, best);
            }
        }
    }
}

#[test]
fn of_equals_the_first_items_win() {
    let same = vec![Item { cost: 1, loss: 0.5 }; 3];
    let table = Table::new(vec![same.clone(), same], vec![]).unwrap();
    assert_eq!(table.frontier().best_within(2).unwrap().choices, [0, 0]);
}

/// Forty variables of eight items with costs of six digits, in lists of 64 points.
#[test]
fn past_the_limit_the_gap_is_small_and_told() {
    let mut dice = Dice::new(7);
    let variables = (0..40).map(|_| {
        let weight = 1.0 + 9.0 * dice.unit();
        let item = |level: usize| Item {
            cost: (100_000.0 * weight / (1 << level) as f64) as i64 + dice.roll(1000) as i64,
            loss: (0.01 + dice.unit()) * level as f64,
        };
        (0..8).map(item).collect()
    });
    let table = Table::new(variables.collect(), vec![]).unwrap();
    let (exact, thin) = (table.frontier(), table.frontier_within(64));
    assert!(exact.is_exact() && !thin.is_exact());
    let budget = 3_000_000;
    let (best, found, gap) = (exact.best_within(budget), thin.best_within(budget), thin.gap(budget));
    let (best, found, gap) = (best.unwrap().loss, found.unwrap().loss, gap.unwrap());
    println!(
        "exact: {} points, loss {best:.4}; thinned: {}, loss {found:.4}, gap {gap:.4}",
        exact.len(),
        thin.len()
    );
    assert!(found - gap <= best && gap < 0.05 * best, "{found} - {gap}, {best}");
}

/// Everything coupled with everything: the weakest couplings go, the rest is solved.
#[test]
fn loops_beyond_the_limit_lose_their_weakest_couplings() {
    let mut dice = Dice::new(1);
    let count = 9;
    let variables: Vec<Vec<Item>> = (0..count)
        .map(|_| {
            (0..4)
                .map(|level| Item {
                    cost: 40 - 10 * level,
                    loss: dice.unit() * level as f64,
                })
                .collect()
        })
        .collect();
    let pairs = (0..count).flat_map(|one| (one + 1..count).map(move |other| vec![one, other]));
    let couplings: Vec<Coupling> = pairs
        .map(|variables| {
            let strong = if variables[1] == variables[0] + 1 { 100 } else { 1 };
            let costs = (0..16).map(|_| (dice.roll(5) as i64) * strong).collect();
            Coupling { variables, costs }
        })
        .collect();
    assert!(4_usize.pow(count as u32 - 1) > JOINT_LIMIT);
    let table = Table::new(variables, couplings.clone()).unwrap();
    let frontier = table.frontier();
    assert!(!frontier.dropped().is_empty());
    for &dropped in frontier.dropped() {
        assert!(
            couplings[dropped].costs.iter().all(|&cost| cost < 100),
            "{dropped} is strong"
        );
    }
    let best = frontier.best_within(500).unwrap();
    let slack: i64 = frontier
        .dropped()
        .iter()
        .map(|&at| couplings[at].costs.iter().max().unwrap())
        .sum();
    assert!(table.cost(&best.choices) <= 500 + slack);
}

#[test]
fn tables_that_are_none_are_refused() {
    let item = |cost, loss| Item { cost, loss };
    let two = || vec![vec![item(1, 0.0), item(2, 0.0)]; 2];
    let coupled = |variables: &[usize], costs: usize| {
        let coupling = Coupling {
            variables: variables.to_vec(),
            costs: vec![0; costs],
        };
        Table::new(two(), vec![coupling]).unwrap_err()
    };
    assert_eq!(
        Table::new(vec![vec![]], vec![]),
        Err(TableError::NoItems { variable: 0 })
    );
    let nan = Table::new(vec![vec![item(1, f64::NAN)]], vec![]).unwrap_err();
    assert!(nan.to_string().contains("item 0 of variable 0 is NaN"));
    let huge = vec![vec![item(i64::MAX, 0.0)], vec![item(i64::MIN, 0.0)]];
    assert_eq!(Table::new(huge, vec![]), Err(TableError::Overflow));
    for (variables, costs) in [(&[0, 2][..], 4), (&[0, 1], 3), (&[0, 0], 4), (&[], 1)] {
        assert_eq!(coupled(variables, costs), TableError::Misfit { coupling: 0 });
    }
}
