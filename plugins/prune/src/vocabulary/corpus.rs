//! Which words a corpus has.

use kmr_calibration::each_batch;
use kmr_sdk::{
    Error, ErrorCode, Host, Result,
    model::{Graph, Tensor},
};

use super::tables::Vocabulary;

/// How often the calibration data looks up each row of the vocabulary's tables.
///
/// # Errors
/// If there is no calibration data, or an id has no row.
pub fn counts(host: &Host<'_>, graph: &Graph, vocabulary: &Vocabulary, samples: Option<usize>) -> Result<Vec<u64>> {
    let mut counts = vec![0; vocabulary.rows];
    let lookup = &vocabulary.tables[0].lookups[0];
    let is_fed = graph.feeds().any(|feed| feed.name() == lookup.ids);
    // What is fed comes with every batch, whatever is computed.
    let asked = if is_fed { &lookup.node } else { &lookup.ids };
    let limit = samples.unwrap_or(usize::MAX);
    each_batch(host, &[asked.as_str()], limit, "counting words", |_, batch| {
        let mut known = batch.inputs.iter().chain(&batch.outputs);
        let ids = known.find(|(name, _)| *name == lookup.ids).map(|(_, ids)| ids);
        let ids = ids.ok_or_else(|| Error::not_found(format!("`{}` was not observed", lookup.ids)))?;
        add(&mut counts, ids, &lookup.ids)
    })
    .map_err(|error| match error.code {
        ErrorCode::NOT_FOUND => Error::invalid_configuration(format!(
            "words are counted on calibration data: {}; give the manifest `data.calibration`",
            error.message
        )),
        _ => error,
    })?;
    Ok(counts)
}

fn add(counts: &mut [u64], ids: &Tensor, name: &str) -> Result<()> {
    let rows = counts.len() as i64;
    let at = |error: Error| error.at(format!("value `{name}`"));
    for id in ids.to_i64().map_err(|error| at(error.into()))? {
        // Negative ids count from the end, as Gather has it.
        let row = if id < 0 { id + rows } else { id };
        let place = usize::try_from(row)
            .ok()
            .and_then(|row| counts.get_mut(row))
            .ok_or_else(|| {
                let message =
                    format!("holds the id {id}, and the table has {rows} rows; the tokenizer is another model's");
                at(Error::unsupported(message))
            })?;
        *place += 1;
    }
    Ok(())
}

/// The fewest ids that cover `share` of all occurrences, the most frequent first; of equally frequent ones the lower.
pub fn covering(counts: &[u64], share: f64) -> Vec<usize> {
    let total: u64 = counts.iter().sum();
    let mut ids: Vec<usize> = (0..counts.len()).filter(|&id| counts[id] > 0).collect();
    ids.sort_by_key(|&id| (std::cmp::Reverse(counts[id]), id));
    let (mut covered, mut enough) = (0, 0);
    while enough < ids.len() && (covered as f64) < share * total as f64 {
        covered += counts[ids[enough]];
        enough += 1;
    }
    // No share is closer to one than a single occurrence.
    if share >= 1.0 {
        enough = ids.len();
    }
    ids.truncate(enough);
    ids
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_most_frequent_come_first() {
        let counts = [5, 0, 1, 3, 1, 0];
        assert_eq!(covering(&counts, 0.5), [0]);
        assert_eq!(covering(&counts, 0.8), [0, 3]);
        assert_eq!(covering(&counts, 0.81), [0, 3, 2]);
        assert_eq!(covering(&counts, 1.0), [0, 3, 2, 4]);
        assert_eq!(covering(&[0, 0], 1.0), [0; 0]);
    }

    #[test]
    fn ids_without_a_row_are_refused() {
        let mut counts = vec![0; 4];
        add(&mut counts, &Tensor::from_vec(vec![2, 2], vec![1_i64, 3, -1, 0]), "ids").unwrap();
        assert_eq!(counts, [1, 1, 0, 2]);
        let error = add(&mut counts, &Tensor::from_vec(vec![1], vec![4_i64]), "ids").unwrap_err();
        assert!(
            error
                .to_string()
                .starts_with("value `ids`: holds the id 4, and the table has 4 rows"),
            "{error}"
        );
    }

    proptest! {
        #[test]
        fn shares_are_covered_by_as_few_as_can_be(
            counts in prop::collection::vec(0_u64..20, 1..40), a in 0.01..=1.0, b in 0.01..=1.0,
        ) {
            let total: u64 = counts.iter().sum();
            let kept = covering(&counts, a);
            let sum: u64 = kept.iter().map(|&id| counts[id]).sum();
            prop_assert!(sum as f64 >= a * total as f64);
            if let Some(last) = kept.last() {
                prop_assert!(((sum - counts[*last]) as f64) < a * total as f64);
            }
            let (less, more) = (covering(&counts, f64::min(a, b)), covering(&counts, f64::max(a, b)));
            prop_assert_eq!(&more[..less.len()], &less);
        }
    }
}
