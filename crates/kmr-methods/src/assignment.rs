//! The cheapest way to give each row a place in a column, where columns have room for several.

use crate::{
    MethodError,
    error::{check_finite, check_length},
};

/// The column of each row, so that the sum of `costs` (rows × columns, row by row) is least and no column has more rows
/// than `room` says. Where several are cheapest, which one is given depends on the order of rows and columns alone.
///
/// Rows come one by one, each by the shortest path of rows that make room for one another (Kuhn, "The Hungarian method",
/// 1955; in the form of Jonker and Volgenant, 1987, with columns of more than one place): at most rows² × columns
/// operations.
///
/// # Errors
/// If sizes do not fit, there is not room for all rows, or a cost is not finite.
pub fn assign(costs: &[f64], rows: usize, room: &[usize]) -> Result<Vec<usize>, MethodError> {
    let columns = room.len();
    check_length("the costs of an assignment", rows.saturating_mul(columns), costs.len())?;
    if room.iter().fold(0_usize, |sum, &places| sum.saturating_add(places)) < rows {
        return Err(MethodError::Domain {
            what: "the number of rows",
            domain: "at most the number of places",
            value: rows as f64,
        });
    }
    check_finite("cost", columns, costs)?;
    let mut state = State {
        costs,
        columns,
        place: vec![usize::MAX; rows],
        held: vec![Vec::new(); columns],
        row_price: vec![0.0; rows],
        column_price: vec![0.0; columns],
    };
    for row in 0..rows {
        state.add(row, room);
    }
    Ok(state.place)
}

/// An assignment of some rows, with prices that prove it cheapest: a cost is at least the prices of its row and column,
/// and exactly these where the row has its place.
struct State<'c> {
    costs: &'c [f64],
    columns: usize,
    place: Vec<usize>,
    held: Vec<Vec<usize>>,
    row_price: Vec<f64>,
    column_price: Vec<f64>,
}

impl State<'_> {
    fn add(&mut self, row: usize, room: &[usize]) {
        let columns = self.columns;
        let mut distance = vec![f64::INFINITY; columns];
        // The row that would move to each column.
        let mut mover = vec![usize::MAX; columns];
        let mut done = vec![false; columns];
        let mut reached = vec![(row, 0.0)];
        let mut settled = Vec::new();
        let (end, least) = loop {
            for &(from, base) in &reached {
                let costs = &self.costs[from * columns..][..columns];
                for column in (0..columns).filter(|&column| !done[column]) {
                    let through = base + costs[column] - self.row_price[from] - self.column_price[column];
                    if through < distance[column] {
                        distance[column] = through;
                        mover[column] = from;
                    }
                }
            }
            let open = (0..columns).filter(|&column| !done[column]);
            // A column is open as long as there is room for all rows.
            let Some(nearest) = open.min_by(|&a, &b| distance[a].total_cmp(&distance[b])) else {
                return;
            };
            if self.held[nearest].len() < room[nearest] {
                break (nearest, distance[nearest]);
            }
            done[nearest] = true;
            settled.push(nearest);
            reached = self.held[nearest]
                .iter()
                .map(|&held| (held, distance[nearest]))
                .collect();
        };
        self.row_price[row] += least;
        for &column in &settled {
            let slack = least - distance[column];
            self.column_price[column] -= slack;
            for &held in &self.held[column] {
                self.row_price[held] += slack;
            }
        }
        let mut column = end;
        loop {
            let moving = mover[column];
            let left = std::mem::replace(&mut self.place[moving], column);
            self.held[column].push(moving);
            if moving == row {
                return;
            }
            self.held[left].retain(|&held| held != moving);
            column = left;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The least sum over all assignments, tried one by one.
    fn least(costs: &[f64], rows: usize, room: &mut [usize]) -> f64 {
        let Some(row) = rows.checked_sub(1) else {
            return 0.0;
        };
        let columns = room.len();
        let mut best = f64::INFINITY;
        for column in 0..columns {
            if room[column] > 0 {
                room[column] -= 1;
                best = best.min(costs[row * columns + column] + least(costs, row, room));
                room[column] += 1;
            }
        }
        best
    }

    proptest! {
        #[test]
        fn nothing_is_cheaper(
            (rows, room, costs) in prop::collection::vec(0_usize..4, 1..5).prop_flat_map(|room| {
                let places = room.iter().sum::<usize>().min(7);
                (0..=places, Just(room)).prop_flat_map(|(rows, room)| {
                    let count = rows * room.len();
                    (Just(rows), Just(room), prop::collection::vec((-8..8_i32).prop_map(f64::from), count))
                })
            })
        ) {
            let found = assign(&costs, rows, &room).unwrap();
            for (column, &places) in room.iter().enumerate() {
                prop_assert!(found.iter().filter(|&&place| place == column).count() <= places);
            }
            let sum: f64 = found.iter().enumerate().map(|(row, column)| costs[row * room.len() + column]).sum();
            prop_assert_eq!(sum, least(&costs, rows, &mut room.clone()));
        }
    }

    #[test]
    fn what_has_no_place_is_refused() {
        assert!(assign(&[1.0, 2.0], 2, &[1]).is_err());
        assert!(assign(&[1.0], 2, &[2]).is_err());
        assert!(assign(&[f64::NAN], 1, &[1]).is_err());
        assert_eq!(assign(&[], 0, &[]), Ok(vec![]));
    }
}
