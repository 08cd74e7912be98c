//! Weights that are zero, and stay so: what unstructured pruning gained must not be trained away.

use kmr_sdk::model::{DType, Layout, Tensor};

use crate::session_edits::SessionEdits;

/// Multiplies each of `tensors` that has zeros by a mask of them, in the session alone. Gives how many have one.
///
/// The mask makes the derivative of a zero zero, too, and every optimizer then leaves it where it is. A tensor of
/// zeros alone is not pruned but new, and is trained. One axis alone is a bias: only if it is stored sparse.
pub fn keep(edits: &mut SessionEdits<'_>, tensors: &[String]) -> usize {
    let mut kept = 0;
    for name in tensors {
        let Some(initializer) = edits.graph().initializers.get(name) else {
            continue;
        };
        let tensor = &initializer.tensor;
        let meant = tensor.shape().len() > 1 || initializer.layout == Layout::Sparse;
        let Some(mask) = mask(tensor).filter(|_| meant && edits.index().is_inner(name)) else {
            continue;
        };
        let before = edits.first_reader(name);
        let mask = edits.tensor(&format!("{name}.mask"), mask);
        let masked = edits.node("Mul", &[name, &mask], &format!("{name}.masked"), before, |node| node);
        edits.redirect(name, &masked);
        kept += 1;
    }
    kept
}

/// One where `tensor` is not zero; none if all of it is, or nothing.
fn mask(tensor: &Tensor) -> Option<Tensor> {
    if tensor.dtype() != DType::FLOAT {
        return None;
    }
    let values = tensor.values::<f32>().ok()?;
    let zeros = values.iter().filter(|&&value| value == 0.0).count();
    let mask = || {
        values
            .iter()
            .map(|&value| if value == 0.0 { 0.0_f32 } else { 1.0 })
            .collect()
    };
    (zeros > 0 && zeros < values.len()).then(|| Tensor::from_vec(tensor.shape().to_vec(), mask()))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use kmr_sdk::model::{Graph, Node};

    use super::*;

    #[test]
    fn masks_are_for_tensors_with_some_zeros() {
        let mut graph = Graph::new("test");
        for (name, shape, values) in [
            ("some", vec![2, 2], vec![0.0_f32, 1.0, 2.0, 0.0]),
            ("none", vec![2, 2], vec![1.0; 4]),
            ("all", vec![2, 2], vec![0.0; 4]),
            ("bias", vec![2], vec![0.0, 1.0]),
        ] {
            graph
                .initializers
                .insert(name.into(), Tensor::from_vec(shape, values).into());
            graph
                .nodes
                .push(Arc::new(Node::new("Identity", "", &[name], &[&format!("{name}.read")])));
        }
        let names: Vec<String> = graph.initializers.keys().cloned().collect();
        let mut edits = SessionEdits::on(&graph);
        assert_eq!(keep(&mut edits, &names), 1);
        let edited = edits.finish().apply(&graph).unwrap();
        assert_eq!(edited.node("some.read").unwrap().inputs(), ["some.masked"]);
        assert_eq!(
            *edited.tensor("some.mask").unwrap().values::<f32>().unwrap(),
            [0.0, 1.0, 1.0, 0.0]
        );
        graph.initializers.get_mut("bias").unwrap().layout = Layout::Sparse;
        assert_eq!(keep(&mut SessionEdits::on(&graph), &names), 2);
    }
}
