//! What the codec keeps of a file: every element type in either field, sparse forms, texts, data beside the model.

use buffa::{Message, MessageField};
use bytes::Bytes;
use kmr_model::{
    DType, Edit, ErrorKind, Graph, Layout, Model, ModelError, Node, Patch, Tensor,
    codec::{DecodeOptions, ExternalData},
    proto::{self, TensorProto},
};

/// A model with these tensors and nothing that reads them.
fn with_tensors(dense: Vec<TensorProto>, sparse: Vec<proto::SparseTensorProto>) -> Vec<u8> {
    let graph = proto::GraphProto {
        name: Some("tensors".into()),
        initializer: dense,
        sparse_initializer: sparse,
        ..Default::default()
    };
    proto::ModelProto {
        ir_version: Some(11),
        graph: MessageField::some(graph),
        ..Default::default()
    }
    .encode_to_vec()
}

fn decode(bytes: &[u8]) -> Result<Model, ModelError> {
    Model::decode(Bytes::copy_from_slice(bytes))
}

fn named(dtype: DType, dims: &[i64]) -> TensorProto {
    TensorProto {
        name: Some("t".into()),
        dims: dims.to_vec(),
        data_type: Some(dtype.number()),
        ..Default::default()
    }
}

/// Reads a model with the one tensor `t`, checks that it is written again byte by byte, and gives the tensor.
#[track_caller]
fn kept(tensor: TensorProto) -> Tensor {
    let bytes = with_tensors(vec![tensor], vec![]);
    let model = decode(&bytes).unwrap();
    assert_eq!(model.encode_to_vec(), bytes);
    assert_eq!(model.encoded_len(), bytes.len() as u64);
    (**model.graph.tensor("t").unwrap()).clone()
}

#[test]
fn every_type_of_known_size_is_kept_raw_and_typed() {
    for number in 1..=28 {
        let dtype = DType::from_number(number);
        let Some(bits) = dtype.bits() else { continue };
        for count in [0_usize, 1, 2, 3, 5, 8] {
            let length = (count * bits).div_ceil(8);
            // Bits beyond the last element are zero, as in files.
            let mut raw: Vec<u8> = (0..length).map(|byte| (byte * 37 + 129) as u8).collect();
            if let (Some(last), rest @ 1..) = (raw.last_mut(), count * bits % 8) {
                *last &= (1 << rest) - 1;
            }
            let mut tensor = named(dtype, &[count as i64]);
            tensor.raw_data = Some(raw.clone().into());
            assert_eq!(kept(tensor).bytes(), &raw, "{dtype} raw");
        }
    }
}

#[test]
fn typed_fields_hold_what_the_specification_says() {
    let typed = |dtype, dims: &[i64], values: &[i32]| TensorProto {
        int32_data: values.to_vec(),
        ..named(dtype, dims)
    };
    assert_eq!(kept(typed(DType::INT8, &[2], &[-1, 127])).bytes()[..], [255, 127]);
    assert_eq!(kept(typed(DType::UINT8, &[2], &[255, 0])).bytes()[..], [255, 0]);
    assert_eq!(kept(typed(DType::BOOL, &[2], &[1, 0])).bytes()[..], [1, 0]);
    assert_eq!(kept(typed(DType::INT16, &[1], &[-2])).bytes()[..], [254, 255]);
    assert_eq!(kept(typed(DType::FLOAT16, &[1], &[0x3c00])).bytes()[..], [0, 0x3c]);
    assert_eq!(kept(typed(DType::BFLOAT16, &[1], &[0xbf80])).bytes()[..], [0x80, 0xbf]);
    assert_eq!(
        kept(typed(DType::FLOAT8E4M3FN, &[2], &[0x38, 0xff])).bytes()[..],
        [0x38, 0xff]
    );
    // Two 4-bit and four 2-bit elements to an entry, the first in the lowest bits; an odd end is padded.
    assert_eq!(kept(typed(DType::INT4, &[3], &[0x2f, 0x07])).bytes()[..], [0x2f, 0x07]);
    assert_eq!(
        kept(typed(DType::UINT2, &[5], &[0b11_10_01_00, 0b10])).bytes()[..],
        [0b11_10_01_00, 0b10]
    );
    // The 6-bit floats have an entry for each element.
    assert_eq!(
        kept(typed(DType::FLOAT6E2M3, &[2], &[0b11_1111, 0b10_0001])).bytes()[..],
        [0b0111_1111, 0b1000]
    );
    let complex = TensorProto {
        float_data: vec![1.0, -2.0],
        ..named(DType::COMPLEX64, &[1])
    };
    assert_eq!(
        kept(complex).bytes()[..],
        [1.0_f32.to_le_bytes(), (-2.0_f32).to_le_bytes()].concat()
    );
    let unsigned = TensorProto {
        uint64_data: vec![u64::from(u32::MAX)],
        ..named(DType::UINT32, &[1])
    };
    assert_eq!(kept(unsigned).bytes()[..], [255; 4]);
    for dtype in [DType::INT4, DType::INT8, DType::FLOAT16] {
        let error = decode(&with_tensors(vec![typed(dtype, &[5], &[1])], vec![])).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Malformed);
        assert_eq!(error.place(), "tensor `t`");
    }
}

#[test]
fn numbers_out_of_range_are_read_as_runtimes_wrap_them_and_kept_as_they_are() {
    let wrapped = TensorProto {
        int32_data: vec![-1, 300],
        ..named(DType::UINT8, &[2])
    };
    assert_eq!(kept(wrapped.clone()).bytes()[..], [255, 44]);
    // Changed values are written as what they are.
    let model = decode(&with_tensors(vec![wrapped], vec![])).unwrap();
    let mut patch = Patch::new();
    patch.push(Edit::StoreTensor {
        name: "t".into(),
        tensor: Tensor::from_vec(vec![1], vec![7_u8]),
    });
    let changed = model.with_graph(patch.apply(&model.graph).unwrap());
    let again = decode(&changed.encode_to_vec()).unwrap();
    assert_eq!(again.graph.tensor("t").unwrap().bytes()[..], [7]);
}

#[test]
fn texts_unknown_types_and_superfluous_fields_are_kept() {
    let texts = TensorProto {
        string_data: vec![Bytes::from_static(b"a"), Bytes::from_static(&[0xff, 0])],
        doc_string: Some("two texts".into()),
        ..named(DType::STRING, &[2])
    };
    assert!(kept(texts.clone()).bytes().is_empty());
    let error = decode(&with_tensors(vec![TensorProto { dims: vec![3], ..texts }], vec![])).unwrap_err();
    assert_eq!(error.to_string(), "tensor `t`: holds 2 texts in shape [3]");
    let unknown = TensorProto {
        raw_data: Some(Bytes::from_static(b"???")),
        ..named(DType::from_number(77), &[2])
    };
    assert_eq!(kept(unknown).dtype().number(), 77);
    // `raw_data` counts where both are there.
    let both = TensorProto {
        raw_data: Some(Bytes::from_static(&[1, 0, 0, 0])),
        int32_data: vec![9],
        ..named(DType::INT32, &[1])
    };
    assert_eq!(kept(both).to_i64().unwrap(), [1]);
}

fn sparse(dtype: DType, raw: &[u8], indices: TensorProto, dims: &[i64]) -> proto::SparseTensorProto {
    let count = indices.dims[0];
    let values = TensorProto {
        raw_data: Some(Bytes::copy_from_slice(raw)),
        ..named(dtype, &[count])
    };
    proto::SparseTensorProto {
        values: MessageField::some(values),
        indices: MessageField::some(indices),
        dims: dims.to_vec(),
        ..Default::default()
    }
}

fn positions(dims: &[i64], values: &[i64]) -> TensorProto {
    TensorProto {
        dims: dims.to_vec(),
        data_type: Some(DType::INT64.number()),
        int64_data: values.to_vec(),
        ..Default::default()
    }
}

#[test]
fn sparse_tensors_are_written_in_the_form_they_came_in() {
    let forms = [
        (
            DType::UINT8,
            vec![5, 6],
            positions(&[2], &[1, 5]),
            vec![0, 5, 0, 0, 0, 6],
        ),
        (
            DType::UINT8,
            vec![5, 6],
            positions(&[2, 2], &[0, 1, 1, 2]),
            vec![0, 5, 0, 0, 0, 6],
        ),
        (DType::INT4, vec![0x65], positions(&[2], &[1, 4]), vec![0x50, 0, 0x06]),
        (DType::UINT2, vec![0b11], positions(&[1], &[5]), vec![0, 0b1100]),
    ];
    for (dtype, raw, indices, dense) in forms {
        let bytes = with_tensors(vec![], vec![sparse(dtype, &raw, indices, &[2, 3])]);
        let model = decode(&bytes).unwrap();
        assert_eq!(model.graph.tensor("t").unwrap().bytes(), &dense);
        assert_eq!(model.graph.initializers["t"].layout, Layout::Sparse);
        assert_eq!(model.encode_to_vec(), bytes, "{dtype}");
        let mut patch = Patch::new();
        let tensor = Tensor::new(dtype, vec![2, 3], vec![0; dense.len()].into()).unwrap();
        patch.push(Edit::StoreTensor {
            name: "t".into(),
            tensor,
        });
        let zeros = model.with_graph(patch.apply(&model.graph).unwrap());
        let again = decode(&zeros.encode_to_vec()).unwrap();
        assert!(again.graph.tensor("t").unwrap().bytes().iter().all(|&byte| byte == 0));
    }
}

#[test]
fn sparse_tensors_that_lie_are_refused() {
    let cases = [
        (
            sparse(DType::UINT8, &[1], positions(&[1], &[6]), &[2, 3]),
            "indices outside its shape",
        ),
        (
            sparse(DType::UINT8, &[1], positions(&[1], &[-1]), &[2, 3]),
            "do not fit shape",
        ),
        (
            sparse(DType::UINT8, &[1, 2], positions(&[2], &[3, 3]), &[2, 3]),
            "names an index twice",
        ),
        (
            sparse(DType::UINT8, &[1], positions(&[1], &[0]), &[1 << 40]),
            "too large for so few values",
        ),
        (
            sparse(DType::UINT8, &[1], positions(&[1], &[0]), &[1 << 40, 1 << 40]),
            "is too large",
        ),
    ];
    for (tensor, message) in cases {
        let error = decode(&with_tensors(vec![], vec![tensor])).unwrap_err();
        assert!(error.to_string().contains(message), "{error}");
    }
}

/// A file of 8 KiB beside the model.
struct Folder;

impl ExternalData for Folder {
    fn read(&self, name: &str, entries: &[(String, String)]) -> Result<Bytes, ModelError> {
        let number = |wanted: &str| {
            entries
                .iter()
                .find(|(key, _)| key == wanted)
                .and_then(|(_, value)| value.parse().ok())
        };
        let bytes = Bytes::from((0..8192).map(|byte| byte as u8).collect::<Vec<_>>());
        let start: usize = number("offset").unwrap_or(0);
        let end = number("length").map_or(bytes.len(), |length: usize| start + length);
        match entries.iter().any(|(key, value)| key == "location" && value == "data") {
            true => Ok(bytes.slice(start..end)),
            false => Err(ModelError::new(
                ErrorKind::Io,
                format!("tensor `{name}`"),
                "no such file",
            )),
        }
    }
}

fn outside(dtype: DType, dims: &[i64], entries: &[(&str, &str)]) -> TensorProto {
    TensorProto {
        data_location: Some(1),
        external_data: entries
            .iter()
            .map(|(key, value)| proto::StringStringEntryProto {
                key: Some((*key).into()),
                value: Some((*value).into()),
                ..Default::default()
            })
            .collect(),
        ..named(dtype, dims)
    }
}

#[test]
fn external_data_is_found_wherever_a_tensor_can_stand() {
    let place = [
        ("location", "data"),
        ("offset", "4"),
        ("length", "2"),
        ("checksum", "?"),
    ];
    let tensor = || outside(DType::UINT8, &[2], &place);
    let inner = proto::GraphProto {
        initializer: vec![tensor()],
        ..Default::default()
    };
    let mut node = Node::new("Odd", "", &[], &["y"]).proto().clone();
    node.attribute = vec![
        proto::AttributeProto {
            name: Some("value".into()),
            t: MessageField::some(tensor()),
            ..Default::default()
        },
        proto::AttributeProto {
            name: Some("body".into()),
            g: MessageField::some(inner),
            ..Default::default()
        },
    ];
    let function = proto::FunctionProto {
        name: Some("f".into()),
        node: vec![node.clone()],
        ..Default::default()
    };
    let graph = proto::GraphProto {
        node: vec![node],
        initializer: vec![tensor()],
        ..Default::default()
    };
    let bytes = proto::ModelProto {
        ir_version: Some(10),
        graph: MessageField::some(graph),
        functions: vec![function],
        ..Default::default()
    }
    .encode_to_vec();
    assert_eq!(decode(&bytes).unwrap_err().kind(), ErrorKind::Unsupported);
    let model = DecodeOptions::with_external_data(&Folder).decode(bytes.into()).unwrap();
    let again = decode(&model.encode_to_vec()).unwrap();
    assert_eq!(again.graph.tensor("t").unwrap().bytes()[..], [4, 5]);
    let node = &again.graph.nodes[0];
    assert_eq!(
        node.attribute("value").unwrap().t.raw_data.as_deref(),
        Some(&[4, 5][..])
    );
    let body = node.subgraph("body").unwrap().unwrap();
    assert_eq!(body.tensor("t").unwrap().bytes()[..], [4, 5]);
    assert_eq!(again.encode_to_vec(), model.encode_to_vec());
}

#[test]
fn external_data_must_fit_its_shape() {
    let read = |tensor| DecodeOptions::with_external_data(&Folder).decode(with_tensors(vec![tensor], vec![]).into());
    let short = [("location", "data"), ("length", "3")];
    let error = read(outside(DType::FLOAT, &[1], &short)).unwrap_err();
    let told = "tensor `t`: float32 of shape [1] takes 4 bytes; the file beside the model holds 3 for it";
    assert_eq!(error.to_string(), told);
    let open = read(outside(DType::UINT8, &[2], &[("location", "data"), ("offset", "8190")])).unwrap();
    assert_eq!(open.graph.tensor("t").unwrap().bytes()[..], [254, 255]);
    assert!(read(outside(DType::UINT8, &[3], &[("location", "data"), ("offset", "8190")])).is_err());
    assert!(read(outside(DType::STRING, &[1], &short)).is_err());
    assert!(read(outside(DType::UINT8, &[1], &[])).is_err());
}

#[test]
fn weights_go_beside_the_model_where_that_is_asked_for() {
    let tensor = |name: &str, length: usize| TensorProto {
        name: Some(name.into()),
        raw_data: Some(vec![name.as_bytes()[0]; length].into()),
        ..named(DType::UINT8, &[length as i64])
    };
    let tensors = vec![
        tensor("small", 1023),
        tensor("first", 1025),
        tensor("large", 1 << 20),
        tensor("z", 2000),
    ];
    let model = decode(&with_tensors(tensors, vec![])).unwrap();
    assert!(model.files().unwrap().data().is_none());
    let apart = model.with_external_data(Some("weights.data"));
    let files = apart.files().unwrap();
    let data = files.data().unwrap();
    assert_eq!(data.location(), "weights.data");
    let (mut own, mut beside) = (Vec::new(), Vec::new());
    files.write_model(&mut own).unwrap();
    data.write(&mut beside).unwrap();
    assert_eq!((own.len() as u64, beside.len() as u64), (files.model_len(), data.len()));
    assert_eq!(apart.encoded_len(), (own.len() + beside.len()) as u64);
    assert!(files.is_model(&own) && data.is(&beside));
    assert!(!files.is_model(&own[1..]) && !data.is(&beside[1..]));
    assert_eq!(beside.len(), 4096 + (1 << 20) + 2000);

    struct Beside(Bytes);
    impl ExternalData for Beside {
        fn read(&self, _: &str, entries: &[(String, String)]) -> Result<Bytes, ModelError> {
            let number = |at: usize| entries[at].1.parse::<usize>().unwrap();
            assert_eq!(entries[0].1, "weights.data");
            Ok(self.0.slice(number(1)..number(1) + number(2)))
        }
    }
    let beside = Beside(beside.into());
    let again = DecodeOptions::with_external_data(&beside).decode(own.into()).unwrap();
    assert_eq!(again.graph, model.graph);
    assert_eq!(again.encode_to_vec(), model.encode_to_vec());
}

#[test]
fn subgraphs_are_read_with_what_they_capture() {
    let branch = |name: &str, read: &str| {
        let mut graph = Graph::new(name);
        graph
            .nodes
            .push(Node::new("Add", "", &[read, "inner"], &["sum"]).into());
        graph
            .initializers
            .insert("inner".into(), Tensor::scalar(1.0_f32).into());
        graph
            .outputs
            .push(kmr_model::ValueInfo::tensor("sum", DType::FLOAT, &[]));
        graph
    };
    let mut deeper = branch("deeper", "a");
    deeper.nodes.push(
        Node::new("If", "", &["sum"], &["w"])
            .with_subgraph("then_branch", &branch("x", "sum"))
            .with_subgraph("else_branch", &branch("y", "b"))
            .into(),
    );
    let node = Node::new("If", "choose", &["c"], &["out"])
        .with_subgraph("then_branch", &deeper)
        .with_subgraph("else_branch", &branch("plain", "b"));
    assert_eq!(node.captures().unwrap(), ["a", "b"]);
    let then = node.subgraph("then_branch").unwrap().unwrap();
    assert_eq!((&then.nodes, &then.outputs), (&deeper.nodes, &deeper.outputs));
    assert_eq!(then.captures().unwrap(), ["a", "b"]);
    assert_eq!(node.subgraph("missing").unwrap(), None);
    let names: Vec<_> = node
        .subgraphs()
        .unwrap()
        .into_iter()
        .map(|(name, graph)| (name, graph.name().to_owned()))
        .collect();
    assert_eq!(
        names,
        [
            ("then_branch", "deeper".to_owned()),
            ("else_branch", "plain".to_owned())
        ]
    );

    let mut main = Graph::new("main");
    for input in ["a", "c"] {
        main.inputs.push(kmr_model::ValueInfo::tensor(input, DType::FLOAT, &[]));
    }
    main.nodes.push(node.into());
    let error = main.check().unwrap_err();
    assert_eq!(
        error.to_string(),
        "node `choose`: reads `b`, which nothing before it produces"
    );
}

#[test]
fn graphs_ten_thousand_deep_are_one_clear_error() {
    // Field by field, innermost first: attribute { g: graph { node { attribute ... } } }.
    fn field(number: u8, content: &[u8]) -> Vec<u8> {
        let mut bytes = vec![number << 3 | 2];
        let mut length = content.len();
        while length >= 0x80 {
            bytes.push(length as u8 | 0x80);
            length >>= 7;
        }
        bytes.push(length as u8);
        bytes.extend(content);
        bytes
    }
    let mut graph = field(2, b"innermost");
    for _ in 0..10_000 {
        let attribute = field(6, &graph);
        graph = field(1, &field(5, &attribute));
    }
    let mut bytes = vec![0x08, 8];
    bytes.extend(field(7, &graph));
    let error = decode(&bytes).unwrap_err();
    assert_eq!(error.to_string(), "nests more than 200 messages in each other");
}
