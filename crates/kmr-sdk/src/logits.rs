//! Which value holds the scores of classes, and how they lie in it.

use kmr_model::{Graph, Tensor};

use crate::{Error, ErrorCode, Result};

/// The value of `graph` that holds the logits: `wanted`, or the first output; where a Softmax makes that output, what
/// the Softmax reads.
///
/// # Errors
/// If there is no such value; `key` is the key of the configuration that names it.
pub fn value(graph: &Graph, wanted: Option<&str>, key: &str) -> Result<String> {
    let outputs = || graph.outputs.iter().map(|output| output.name());
    if let Some(wanted) = wanted {
        let mut made = graph.nodes.iter().flat_map(|node| node.outputs());
        if outputs().any(|output| output == wanted) || made.any(|value| value == wanted) {
            return Ok(wanted.to_owned());
        }
        let outputs: Vec<String> = outputs().map(|output| format!("`{output}`")).collect();
        let message = format!(
            "the model has no value `{wanted}`; its outputs are {}",
            outputs.join(", ")
        );
        return Err(Error::invalid_configuration(message).at(format!("config.{key}")));
    }
    let first = outputs()
        .next()
        .ok_or_else(|| Error::unsupported("the model has no output"))?;
    let maker = graph.nodes.iter().find(|node| node.id() == first);
    let softmax = maker.filter(|node| node.is("Softmax")).and_then(|node| node.input(0));
    Ok(softmax.unwrap_or(first).to_owned())
}

/// How scores of classes lie in a tensor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layout {
    shape: Vec<usize>,
    axis: usize,
}

impl Layout {
    /// Classes along `axis`; if none is given, along the second of four axes or more, as in images, else the last.
    ///
    /// # Errors
    /// If there is no such axis, or nothing lies along it.
    pub fn of(name: &str, shape: &[usize], axis: Option<i64>) -> Result<Self> {
        let rank = shape.len();
        let wanted = axis.unwrap_or(if rank >= 4 { 1 } else { -1 });
        let axis = if wanted < 0 { wanted + rank as i64 } else { wanted };
        let axis = usize::try_from(axis).ok().filter(|&axis| axis < rank).ok_or_else(|| {
            let message = format!("value `{name}` has the shape {shape:?} and no axis {wanted} for classes");
            Error::new(ErrorCode::SHAPE, message).at("config.class_axis")
        })?;
        if shape[axis] == 0 {
            let message = format!("value `{name}` has the shape {shape:?} and no classes on axis {wanted}");
            return Err(Error::new(ErrorCode::SHAPE, message).at("config.class_axis"));
        }
        Ok(Self {
            shape: shape.to_vec(),
            axis,
        })
    }

    /// How many classes there are.
    pub fn classes(&self) -> usize {
        self.shape[self.axis]
    }

    /// The elements with the classes of a row side by side.
    pub fn rows(&self, values: &[f32]) -> Vec<f32> {
        let (classes, inner) = (self.classes(), self.inner());
        let row = |at: usize| (0..classes).map(move |class| (at / inner * classes + class) * inner + at % inner);
        let rows = values.len() / classes.max(1);
        (0..rows).flat_map(row).map(|place| values[place]).collect()
    }

    /// The tensor of such rows.
    pub fn tensor(&self, rows: &[f32]) -> Tensor {
        let (classes, inner) = (self.classes(), self.inner());
        let place = |at: usize| {
            let (outer, class, inside) = (at / (classes * inner), at / inner % classes, at % inner);
            (outer * inner + inside) * classes + class
        };
        let values: Vec<f32> = (0..rows.len()).map(|at| rows[place(at)]).collect();
        Tensor::from_vec(self.shape.clone(), values)
    }

    /// Elements after the axis.
    fn inner(&self) -> usize {
        self.shape[self.axis + 1..].iter().product()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use kmr_model::{Node, ValueInfo};
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_value_before_a_softmax() {
        let mut graph = Graph::new("test");
        graph.outputs = vec![ValueInfo::untyped("p")];
        graph.nodes = vec![
            Arc::new(Node::new("Relu", "", &["x"], &["z"])),
            Arc::new(Node::new("Softmax", "", &["z"], &["p"])),
        ];
        assert_eq!(value(&graph, None, "output").unwrap(), "z");
        assert_eq!(value(&graph, Some("p"), "output").unwrap(), "p");
        let error = value(&graph, Some("logits"), "output").unwrap_err().to_string();
        assert_eq!(
            error,
            "config.output: the model has no value `logits`; its outputs are `p`"
        );
        assert!(value(&Graph::new("none"), None, "output").is_err());
    }

    #[test]
    fn images_have_classes_second() {
        let layout = Layout::of("y", &[1, 2, 1, 3], None).unwrap();
        assert_eq!(
            layout.rows(&[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]),
            [1.0, 4.0, 2.0, 5.0, 3.0, 6.0]
        );
        assert_eq!(Layout::of("y", &[2, 7, 5], None).unwrap().classes(), 5);
        let error = Layout::of("y", &[2], Some(1)).unwrap_err().to_string();
        assert!(error.contains("shape [2] and no axis 1"), "{error}");
        assert!(Layout::of("y", &[], None).is_err());
        assert!(Layout::of("y", &[2, 0], None).is_err());
    }

    proptest! {
        #[test]
        fn there_and_back(shape in prop::collection::vec(1_usize..5, 1..5), axis in 0_i64..5) {
            let layout = Layout::of("y", &shape, Some(axis % shape.len() as i64)).unwrap();
            let values: Vec<f32> = (0..shape.iter().product::<usize>()).map(|at| at as f32).collect();
            let back = layout.tensor(&layout.rows(&values));
            prop_assert_eq!(&*back.values::<f32>().unwrap(), &values[..]);
        }
    }
}
