//! Clusters of equal size.

use rayon::prelude::*;

use crate::{Matrix, MethodError, assignment::assign};

/// The cluster of each row of `features`, in `clusters` clusters whose sizes differ by one at most.
///
/// Balanced k-means (Malinen and Fränti, "Balanced K-Means for Clustering", 2014): means are moved and rows are assigned
/// in turn, the latter in the cheapest way that keeps the sizes, until the sum of squared distances falls no more or
/// `rounds` have passed. The first means are rows: the one that is farthest from the mean of all, and then whichever is
/// farthest from those taken, so that nothing is random.
///
/// # Errors
/// If there are fewer rows than clusters, or no cluster.
pub fn balanced(features: Matrix<'_>, clusters: usize, rounds: usize) -> Result<Vec<usize>, MethodError> {
    let rows = features.rows();
    if clusters == 0 || rows < clusters {
        return Err(MethodError::Domain {
            what: "the number of clusters",
            domain: "1 to the number of rows",
            value: clusters as f64,
        });
    }
    let room: Vec<usize> = (0..clusters)
        .map(|cluster| rows / clusters + usize::from(cluster < rows % clusters))
        .collect();
    let mut means = first_means(features, clusters);
    let mut best: Option<(f64, Vec<usize>)> = None;
    for _ in 0..rounds.max(1) {
        let costs: Vec<f64> = (0..rows)
            .into_par_iter()
            .flat_map_iter(|row| {
                let row = features.row(row);
                means.iter().map(|mean| distance(row, mean)).collect::<Vec<_>>()
            })
            .collect();
        let found = assign(&costs, rows, &room)?;
        let sum: f64 = found
            .iter()
            .enumerate()
            .map(|(row, cluster)| costs[row * clusters + cluster])
            .sum();
        if best.as_ref().is_some_and(|(least, _)| sum >= least * (1.0 - 1e-9)) {
            break;
        }
        means = means_of(features, &found, clusters);
        best = Some((sum, found));
    }
    Ok(best.map(|(_, found)| found).unwrap_or_default())
}

/// The squared distance.
fn distance(row: &[f32], mean: &[f64]) -> f64 {
    row.iter()
        .zip(mean)
        .map(|(&value, mean)| (f64::from(value) - mean).powi(2))
        .sum()
}

fn wide(row: &[f32]) -> Vec<f64> {
    row.iter().map(|&value| value.into()).collect()
}

fn means_of(features: Matrix<'_>, clusters: &[usize], count: usize) -> Vec<Vec<f64>> {
    let mut means = vec![vec![0.0; features.columns()]; count];
    let mut sizes = vec![0_usize; count];
    for (row, &cluster) in clusters.iter().enumerate() {
        sizes[cluster] += 1;
        for (sum, &value) in means[cluster].iter_mut().zip(features.row(row)) {
            *sum += f64::from(value);
        }
    }
    for (mean, &size) in means.iter_mut().zip(&sizes) {
        mean.iter_mut().for_each(|sum| *sum /= size.max(1) as f64);
    }
    means
}

fn first_means(features: Matrix<'_>, clusters: usize) -> Vec<Vec<f64>> {
    let rows = features.rows();
    let middle = means_of(features, &vec![0; rows], 1).remove(0);
    let farthest = |distances: &[f64]| {
        // The first of those that are farthest.
        (0..rows)
            .rev()
            .max_by(|&a, &b| distances[a].total_cmp(&distances[b]))
            .unwrap_or(0)
    };
    let from = |mean: &[f64]| -> Vec<f64> { (0..rows).map(|row| distance(features.row(row), mean)).collect() };
    let mut means = vec![wide(features.row(farthest(&from(&middle))))];
    let mut nearest = from(&means[0]);
    while means.len() < clusters {
        let next = wide(features.row(farthest(&nearest)));
        for (near, far) in nearest.iter_mut().zip(from(&next)) {
            *near = near.min(far);
        }
        means.push(next);
    }
    means
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn sizes_differ_by_one_at_most(
            (rows, clusters, values) in (1_usize..20).prop_flat_map(|rows| {
                (Just(rows), 1..=rows, prop::collection::vec(-1.0_f32..1.0, rows * 3))
            })
        ) {
            let features = Matrix::new(rows, 3, &values).unwrap();
            let found = balanced(features, clusters, 10).unwrap();
            prop_assert_eq!(found.len(), rows);
            let mut sizes = vec![0; clusters];
            found.iter().for_each(|&cluster| sizes[cluster] += 1);
            prop_assert!(sizes.iter().all(|&size| size == rows / clusters || size == rows.div_ceil(clusters)));
            prop_assert_eq!(balanced(features, clusters, 10).unwrap(), found);
        }
    }

    #[test]
    fn what_lies_together_stays_together() {
        let values: Vec<f32> = (0..30).map(|at| (at % 5) as f32 * 100.0 + (at / 5) as f32).collect();
        let found = balanced(Matrix::new(30, 1, &values).unwrap(), 5, 20).unwrap();
        for (row, &cluster) in found.iter().enumerate() {
            assert_eq!(cluster, found[row % 5], "{found:?}");
        }
        assert!(balanced(Matrix::new(2, 1, &[0.0, 1.0]).unwrap(), 3, 1).is_err());
        assert!(balanced(Matrix::new(2, 1, &[0.0, 1.0]).unwrap(), 0, 1).is_err());
    }
}
