//! One budget of parameters, shared by layers.

/// What ranks are worth to one layer.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Spectrum<'s> {
    /// Its singular values, falling. Rank r removes the sum of the squares of the first r of them from the error.
    pub singular_values: &'s [f64],
    /// The parameters that one more rank takes: rows + columns.
    pub cost: usize,
    /// The greatest rank that it may have.
    pub most: usize,
}

/// The rank of each layer under one budget of parameters: step by step the rank that removes most error for its
/// parameters, of equal ones the layer that comes first, as long as anything fits.
///
/// A layer's gains fall from rank to rank, so this is the best there is wherever steps in this order use the budget up,
/// and always where all ranks cost the same. Elsewhere a part of the budget too small for the next step is filled with
/// smaller ones, and the error removed falls short of the best by less than that part would be worth to the next step.
pub fn allocate(layers: &[Spectrum<'_>], budget: usize) -> Vec<usize> {
    let mut ranks = vec![0; layers.len()];
    let mut left = budget;
    loop {
        let mut best: Option<(usize, f64)> = None;
        for (at, (layer, &rank)) in layers.iter().zip(&ranks).enumerate() {
            let gain = match layer.singular_values.get(rank) {
                Some(value) if rank < layer.most && layer.cost <= left => value * value / layer.cost.max(1) as f64,
                _ => continue,
            };
            if gain > 0.0 && best.is_none_or(|(_, most)| gain > most) {
                best = Some((at, gain));
            }
        }
        let Some((at, _)) = best else {
            return ranks;
        };
        ranks[at] += 1;
        left -= layers[at].cost;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn removed(layers: &[Spectrum<'_>], ranks: &[usize]) -> f64 {
        let own = |(layer, &rank): (&Spectrum<'_>, &usize)| -> f64 {
            layer.singular_values[..rank].iter().map(|value| value * value).sum()
        };
        layers.iter().zip(ranks).map(own).sum()
    }

    /// The most that any ranks remove.
    fn best(layers: &[Spectrum<'_>], budget: usize) -> f64 {
        let Some((first, rest)) = layers.split_first() else {
            return 0.0;
        };
        let most = first.most.min(first.singular_values.len());
        let choices = (0..=most).filter(|rank| rank * first.cost <= budget);
        let worth = choices.map(|rank| removed(&[*first], &[rank]) + best(rest, budget - rank * first.cost));
        worth.fold(0.0, f64::max)
    }

    fn spectra() -> impl Strategy<Value = Vec<(Vec<f64>, usize, usize)>> {
        let values = prop::collection::vec(0_u8..20, 0..5).prop_map(|mut values| {
            values.sort_by(|a, b| b.cmp(a));
            values.into_iter().map(f64::from).collect()
        });
        prop::collection::vec((values, 1_usize..7, 0_usize..6), 0..5)
    }

    fn view(spectra: &[(Vec<f64>, usize, usize)]) -> Vec<Spectrum<'_>> {
        let spectra = spectra.iter();
        let spectra = spectra.map(|(singular_values, cost, most)| Spectrum {
            singular_values,
            cost: *cost,
            most: *most,
        });
        spectra.collect()
    }

    proptest! {
        #[test]
        fn nothing_is_better_where_ranks_cost_the_same(spectra in spectra(), cost in 1_usize..4, budget in 0_usize..30) {
            let spectra: Vec<_> = spectra.into_iter().map(|(values, _, most)| (values, cost, most)).collect();
            let layers = view(&spectra);
            let ranks = allocate(&layers, budget);
            prop_assert_eq!(removed(&layers, &ranks), best(&layers, budget));
        }

        #[test]
        fn nothing_is_better_by_more_than_what_is_left_over(spectra in spectra(), budget in 0_usize..40) {
            let layers = view(&spectra);
            let ranks = allocate(&layers, budget);
            let spent = |ranks: &[usize]| -> usize {
                layers.iter().zip(ranks).map(|(layer, rank)| layer.cost * rank).sum()
            };
            prop_assert!(spent(&ranks) <= budget);
            // All steps in their order, until one does not fit.
            let mut steps: Vec<(f64, usize)> = layers
                .iter()
                .flat_map(|layer| {
                    let taken = layer.singular_values.iter().take(layer.most);
                    taken.map(move |value| (value * value / layer.cost as f64, layer.cost))
                })
                .collect();
            steps.sort_by(|a, b| b.0.total_cmp(&a.0));
            let mut rest = budget;
            let mut bound = 0.0;
            for (density, cost) in steps {
                if cost > rest {
                    bound = density * rest as f64;
                    break;
                }
                rest -= cost;
            }
            let (reached, best) = (removed(&layers, &ranks), best(&layers, budget));
            prop_assert!(reached <= best + 1e-9 && best <= reached + bound + 1e-9, "{reached} {best} {bound}");
            if bound == 0.0 {
                prop_assert!((reached - best).abs() < 1e-9);
            }
        }
    }

    #[test]
    fn worth_for_the_parameters_decides() {
        let (small, large) = ([3.0, 1.0], [4.0, 0.5]);
        let layers = [
            Spectrum {
                singular_values: &small,
                cost: 2,
                most: 2,
            },
            Spectrum {
                singular_values: &large,
                cost: 8,
                most: 2,
            },
        ];
        assert_eq!(allocate(&layers, 2), [1, 0]);
        assert_eq!(allocate(&layers, 10), [1, 1]);
        assert_eq!(allocate(&layers, 100), [2, 2]);
        assert_eq!(allocate(&[], 100), [0_usize; 0]);
    }
}
