//! How an initializer is written, and what it takes in the file.

use kmr_sdk::model::{DType, Edit, Graph, Layout, Model, Patch, Tensor};

/// The IR version that brought sparse initializers.
const SPARSE_IR_VERSION: i64 = 5;

/// The bytes that an initializer takes in a model's file, its tag and length included.
///
/// Counted by the wire format: an initializer is field 5 of the graph, a sparse one field 15.
pub fn dense_len(name: &str, tensor: &Tensor) -> u64 {
    field(
        1,
        tensor_len(name, tensor.shape(), tensor.dtype(), tensor.byte_len() as u64),
    )
}

/// The bytes that the same initializer takes with `nonzero` values and as many linear int64 indices.
/// `None` for element types that no sparse tensor can hold.
pub fn sparse_len(name: &str, tensor: &Tensor, nonzero: usize) -> Option<u64> {
    let width = element_width(tensor)?;
    let values = tensor_len(name, &[nonzero], tensor.dtype(), (nonzero * width) as u64);
    let indices = tensor_len("", &[nonzero], DType::INT64, (nonzero * 8) as u64);
    Some(field(
        1,
        field(1, values) + field(1, indices) + dimensions(tensor.shape()),
    ))
}

/// The bytes of one element; `None` where elements are no whole bytes.
pub fn element_width(tensor: &Tensor) -> Option<usize> {
    let bits = tensor.dtype().bits()?;
    bits.is_multiple_of(8).then_some(bits / 8)
}

/// Elements that are not all zero bits, which is what a sparse tensor stores. (A negative zero is stored.)
pub fn stored_count(tensor: &Tensor) -> Option<usize> {
    let width = element_width(tensor)?;
    Some(
        tensor
            .bytes()
            .chunks_exact(width)
            .filter(|element| element.iter().any(|&byte| byte != 0))
            .count(),
    )
}

/// The layout in which `tensor` takes fewer bytes; dense where both take the same, or where this model's
/// format has no other.
pub fn smaller_layout(model: &Model, name: &str, tensor: &Tensor) -> Layout {
    let declared = model.graph.inputs.iter().any(|input| input.name() == name);
    if model.ir_version() < SPARSE_IR_VERSION || declared {
        return Layout::Dense;
    }
    let sparse = stored_count(tensor).and_then(|count| sparse_len(name, tensor, count));
    match sparse {
        Some(sparse) if sparse < dense_len(name, tensor) => Layout::Sparse,
        _ => Layout::Dense,
    }
}

/// Adds to `patch` that `tensor` replaces the initializer `name`, in the smaller layout; gives the layout.
pub fn store(patch: &mut Patch, model: &Model, name: &str, tensor: Tensor) -> Layout {
    let layout = smaller_layout(model, name, &tensor);
    patch.push(Edit::StoreTensor {
        name: name.into(),
        tensor,
    });
    if layout_of(&model.graph, name) != layout {
        patch.push(Edit::StoreSparse {
            name: name.into(),
            sparse: layout == Layout::Sparse,
        });
    }
    layout
}

fn layout_of(graph: &Graph, name: &str) -> Layout {
    graph
        .initializers
        .get(name)
        .map_or(Layout::Dense, |initializer| initializer.layout)
}

/// A `TensorProto`: dims (1), data_type (2), name (8), raw_data (9).
fn tensor_len(name: &str, shape: &[usize], dtype: DType, data: u64) -> u64 {
    let name = if name.is_empty() {
        0
    } else {
        field(1, name.len() as u64)
    };
    dimensions(shape) + 1 + varint(dtype.number().unsigned_abs().into()) + name + field(1, data)
}

/// Sizes of dimensions, each with a tag of its own.
fn dimensions(shape: &[usize]) -> u64 {
    shape.iter().map(|&size| 1 + varint(size as u64)).sum()
}

/// A field of `length` bytes: its tag, the length, the bytes.
fn field(tag: u64, length: u64) -> u64 {
    tag + varint(length) + length
}

fn varint(value: u64) -> u64 {
    u64::from(64 - (value | 1).leading_zeros()).div_ceil(7)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::testing::graph;

    /// A model with one initializer under test, and another one so large that the graph's own length takes as many
    /// bytes however the first is written.
    fn model(tensor: &Tensor, layout: Layout) -> Model {
        let mut graph = graph(&[], &[]);
        graph.initializers.insert(
            "filler".into(),
            Tensor::from_vec(vec![1 << 14], vec![1_u8; 1 << 14]).into(),
        );
        graph.initializers.insert("weight".into(), tensor.clone().into());
        graph.initializers["weight"].layout = layout;
        Model::new(graph, 8, 17)
    }

    proptest! {
        #[test]
        fn lengths_are_those_of_the_file(
            shape in prop::collection::vec(1_usize..20, 1..4),
            density in 0.0..1.0,
            seed in any::<u32>(),
        ) {
            let count: usize = shape.iter().product();
            let mut state = seed | 1;
            let values: Vec<f32> = (0..count).map(|_| {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                if f64::from(state) / f64::from(u32::MAX) < density { 1.0 } else { 0.0 }
            }).collect();
            let tensor = Tensor::from_vec(shape, values);
            let mut without = model(&tensor, Layout::Dense);
            without.graph.initializers.shift_remove("weight");
            let nothing = without.encoded_len();
            let dense = model(&tensor, Layout::Dense).encoded_len();
            let sparse = model(&tensor, Layout::Sparse).encoded_len();
            prop_assert_eq!(dense - nothing, dense_len("weight", &tensor));
            let nonzero = stored_count(&tensor).unwrap();
            prop_assert_eq!(sparse - nothing, sparse_len("weight", &tensor, nonzero).unwrap());
            let smaller = smaller_layout(&without, "weight", &tensor);
            prop_assert_eq!(smaller == Layout::Sparse, sparse < dense);
        }
    }

    #[test]
    fn float32_pays_off_when_more_than_two_thirds_are_zero() {
        let tensor = |nonzero: usize| {
            let values = (0..9000).map(|i| if i < nonzero { 1.0_f32 } else { 0.0 }).collect();
            Tensor::from_vec(vec![9000], values)
        };
        let empty = Model::new(graph(&[], &[]), 8, 17);
        assert_eq!(smaller_layout(&empty, "w", &tensor(3001)), Layout::Dense);
        assert_eq!(smaller_layout(&empty, "w", &tensor(2980)), Layout::Sparse);
        let old = Model::new(graph(&[], &[]), 4, 10);
        assert_eq!(
            smaller_layout(&old, "w", &tensor(0)),
            Layout::Dense,
            "IR 4 has no sparse initializers"
        );
    }
}
