//! Reading and writing a model again changes nothing.

use std::sync::Arc;

use bytes::Bytes;
use kmr_model::{DType, Dimension, Edit, Graph, Initializer, Layout, Model, Node, Patch, Tensor, ValueInfo};

fn small() -> Model {
    let mut graph = Graph::new("small");
    graph.inputs.push(ValueInfo::tensor(
        "x",
        DType::FLOAT,
        &[Dimension::Named("batch".into()), Dimension::Fixed(3)],
    ));
    graph.outputs.push(ValueInfo::tensor(
        "y",
        DType::FLOAT,
        &[Dimension::Unknown, Dimension::Fixed(2)],
    ));
    graph.initializers.insert(
        "w".into(),
        Initializer::from(Tensor::from_vec(vec![2, 3], vec![1.0_f32, 0.0, 2.0, 0.0, -0.0, 3.0])),
    );
    graph.nodes.push(Arc::new(
        Node::new("Gemm", "fc", &["x", "w"], &["y"]).with_int("transB", 1),
    ));
    Model::new(graph, 10, 17)
}

#[test]
fn written_and_read_again_is_equal_and_as_long_as_announced() {
    let model = small();
    let bytes = model.encode_to_vec();
    assert_eq!(bytes.len() as u64, model.encoded_len());
    let again = Model::decode(Bytes::from(bytes.clone())).unwrap();
    assert_eq!(again.encode_to_vec(), bytes);
    assert_eq!(again.graph.tensor("w"), model.graph.tensor("w"));
}

#[test]
fn unknown_fields_survive() {
    let mut bytes = small().encode_to_vec();
    // Field 4000, a length-delimited field of no known specification.
    bytes.extend([0x82, 0xfa, 0x01, 0x03, b'k', b'm', b'r']);
    let again = Model::decode(Bytes::from(bytes.clone())).unwrap();
    assert_eq!(again.encode_to_vec(), bytes);
}

#[test]
fn sparse_storage_keeps_every_value_to_the_bit() {
    let model = small();
    let mut patch = Patch::new();
    patch.push(Edit::StoreSparse {
        name: "w".into(),
        sparse: true,
    });
    let sparse = model.with_graph(patch.apply(&model.graph).unwrap());
    let bytes = sparse.encode_to_vec();
    assert_eq!(bytes.len() as u64, sparse.encoded_len());
    let again = Model::decode(Bytes::from(bytes)).unwrap();
    let read = &again.graph.initializers["w"];
    assert_eq!(read.layout, Layout::Sparse);
    assert_eq!(read.tensor, model.graph.initializers["w"].tensor);
}

#[test]
fn a_truncated_model_is_an_error_at_every_length() {
    let bytes = small().encode_to_vec();
    for length in 0..bytes.len() {
        let _ = Model::decode(Bytes::copy_from_slice(&bytes[..length])).map(|model| {
            // A cut on a field's edge can leave a smaller valid message; it must still hold together.
            model.graph.check().unwrap();
        });
    }
    assert!(Model::decode(Bytes::from_static(b"not a model")).is_err());
}

#[test]
fn a_patch_leaves_its_graph_alone_and_shares_what_it_keeps() {
    let model = small();
    let mut patch = Patch::new();
    patch.push(Edit::StoreTensor {
        name: "w".into(),
        tensor: Tensor::from_vec(vec![1, 3], vec![1.0_f32, 2.0, 3.0]),
    });
    let patched = patch.apply(&model.graph).unwrap();
    assert_eq!(model.graph.tensor("w").unwrap().shape(), [2, 3]);
    assert_eq!(patched.tensor("w").unwrap().shape(), [1, 3]);
    assert!(Arc::ptr_eq(&patched.nodes[0], &model.graph.nodes[0]));

    patch.push(Edit::RemoveTensor { name: "w".into() });
    let error = patch.apply(&model.graph).unwrap_err();
    assert_eq!(
        error.to_string(),
        "node `fc`: reads `w`, which nothing before it produces"
    );
}
