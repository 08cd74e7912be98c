//! One small model with every kind of field in it.

use buffa::{Message, MessageField};
use kmr_model::proto::{self, __buffa::oneof};

/// The model's file.
pub fn everything() -> Vec<u8> {
    proto::ModelProto {
        ir_version: Some(10),
        producer_name: Some("specimen".into()),
        producer_version: Some("1".into()),
        domain: Some("example".into()),
        model_version: Some(3),
        doc_string: Some("every kind of field".into()),
        graph: MessageField::some(graph()),
        opset_import: vec![set("", 21), set("example", 1)],
        metadata_props: vec![entry("key", "value")],
        functions: vec![function()],
        training_info: vec![proto::TrainingInfoProto {
            initialization: MessageField::some(proto::GraphProto {
                name: Some("start".into()),
                ..Default::default()
            }),
            update_binding: vec![entry("weight", "bias")],
            ..Default::default()
        }],
        configuration: vec![proto::DeviceConfigurationProto {
            name: Some("two".into()),
            num_devices: Some(2),
            device: vec!["a".into(), "b".into()],
            ..Default::default()
        }],
        ..Default::default()
    }
    .encode_to_vec()
}

fn graph() -> proto::GraphProto {
    proto::GraphProto {
        name: Some("main".into()),
        doc_string: Some("a graph".into()),
        node: vec![
            with(
                node("Conv", &["x", "weight", "bias"], "convolved"),
                vec![
                    ints("kernel_shape", &[1, 1]),
                    ints("pads", &[0; 4]),
                    string("auto_pad", "NOTSET"),
                ],
            ),
            node("Relu", &["convolved"], "active"),
            node("Add", &["active", "sparse"], "added"),
            with(node("Shape", &["added"], "shape"), vec![integer("start", 0)]),
            node("Reshape", &["added", "target"], "rows"),
            node("DequantizeLinear", &["packed", "scale"], "dequantized"),
            node("MatMul", &["rows", "dequantized"], "product"),
            with(
                node("If", &["flag"], "chosen"),
                vec![branch("then_branch", "Neg"), branch("else_branch", "Abs")],
            ),
            proto::NodeProto {
                domain: Some("example".into()),
                ..node("Twice", &["chosen"], "y")
            },
            with(
                node("Constant", &[], "text"),
                vec![tensor_attribute("value", strings())],
            ),
            with(
                proto::NodeProto {
                    domain: Some("elsewhere".into()),
                    overload: Some("two".into()),
                    doc_string: Some("unknown here".into()),
                    metadata_props: vec![entry("a", "b")],
                    ..node("Odd", &["", "text"], "odd")
                },
                vec![
                    odd(),
                    proto::AttributeProto {
                        name: Some("types".into()),
                        r#type: Some(14),
                        type_protos: vec![sequence(), tensor_type(&[Some(2)])],
                        ..Default::default()
                    },
                ],
            ),
        ],
        initializer: vec![
            raw("weight", 1, &[2, 2, 1, 1], &floats(&[0.5, -1.0, 0.0, 2.0])),
            proto::TensorProto {
                float_data: vec![0.25, -0.5],
                ..empty("bias", 1, &[2])
            },
            proto::TensorProto {
                int64_data: vec![1, -1],
                ..empty("target", 7, &[2])
            },
            proto::TensorProto {
                int32_data: vec![0x21, 0x43, 0x65, 0x07],
                ..empty("packed", 22, &[8, 1])
            },
            raw("scale", 1, &[], &floats(&[0.125])),
            proto::TensorProto {
                int32_data: vec![1],
                ..empty("flag", 9, &[])
            },
            proto::TensorProto {
                double_data: vec![1.5],
                ..empty("double", 11, &[1])
            },
            proto::TensorProto {
                uint64_data: vec![7],
                ..empty("unsigned", 12, &[1])
            },
            raw("half", 10, &[2], &[0, 0x3c, 0, 0xbc]),
            raw("complex", 14, &[1], &floats(&[1.0, 2.0])),
            raw("none", 1, &[0, 3], &[]),
            proto::TensorProto {
                name: Some("words".into()),
                ..strings()
            },
        ],
        sparse_initializer: vec![proto::SparseTensorProto {
            values: MessageField::some(raw("sparse", 1, &[1], &floats(&[3.0]))),
            indices: MessageField::some(raw("positions", 7, &[1], &1_i64.to_le_bytes())),
            dims: vec![1, 2, 2, 2],
            ..Default::default()
        }],
        input: vec![
            declared("x", tensor_type(&[Some(1), Some(2), Some(2), Some(2)])),
            declared("free", tensor_type(&[None, Some(3)])),
        ],
        output: vec![
            declared("y", tensor_type(&[Some(1), None])),
            declared("odd", sequence()),
            declared("shape", tensor_type(&[Some(4)])),
        ],
        value_info: vec![declared("product", tensor_type(&[Some(1), Some(1)]))],
        quantization_annotation: vec![proto::TensorAnnotation {
            tensor_name: Some("packed".into()),
            quant_parameter_tensor_names: vec![entry("SCALE_TENSOR", "scale")],
            ..Default::default()
        }],
        metadata_props: vec![entry("graph", "main")],
        ..Default::default()
    }
}

fn function() -> proto::FunctionProto {
    proto::FunctionProto {
        name: Some("Twice".into()),
        domain: Some("example".into()),
        input: vec!["value".into()],
        output: vec!["doubled".into()],
        attribute: vec!["factor".into()],
        node: vec![node("Add", &["value", "value"], "doubled")],
        opset_import: vec![set("", 21)],
        attribute_proto: vec![integer("offset", 0)],
        doc_string: Some("twice".into()),
        value_info: vec![declared("doubled", tensor_type(&[]))],
        ..Default::default()
    }
}

fn branch(name: &str, op_type: &str) -> proto::AttributeProto {
    let inner = format!("{name}_output");
    proto::AttributeProto {
        name: Some(name.into()),
        r#type: Some(5),
        g: MessageField::some(proto::GraphProto {
            name: Some(name.into()),
            node: vec![node(op_type, &["product"], &inner)],
            output: vec![declared(&inner, tensor_type(&[Some(1), Some(1)]))],
            ..Default::default()
        }),
        ..Default::default()
    }
}

/// An attribute of every kind at once, which only a foreign operator could have.
fn odd() -> proto::AttributeProto {
    proto::AttributeProto {
        name: Some("odd".into()),
        f: Some(0.5),
        s: Some(vec![0xff, 0x00].into()),
        tensors: vec![raw("inner", 3, &[1], &[9])],
        graphs: vec![proto::GraphProto::default()],
        floats: vec![1.0, f32::NAN],
        strings: vec![b"one".to_vec().into(), vec![0xfe].into()],
        doc_string: Some("odd".into()),
        tp: MessageField::some(sequence()),
        ref_attr_name: Some("factor".into()),
        sparse_tensor: MessageField::some(proto::SparseTensorProto::default()),
        sparse_tensors: vec![proto::SparseTensorProto::default()],
        ..Default::default()
    }
}

fn node(op_type: &str, inputs: &[&str], output: &str) -> proto::NodeProto {
    proto::NodeProto {
        name: Some(format!("{op_type}_node")),
        op_type: Some(op_type.into()),
        input: inputs.iter().map(|&input| input.into()).collect(),
        output: vec![output.into()],
        ..Default::default()
    }
}

fn with(node: proto::NodeProto, attribute: Vec<proto::AttributeProto>) -> proto::NodeProto {
    proto::NodeProto { attribute, ..node }
}

fn integer(name: &str, value: i64) -> proto::AttributeProto {
    proto::AttributeProto {
        name: Some(name.into()),
        r#type: Some(2),
        i: Some(value),
        ..Default::default()
    }
}

fn ints(name: &str, values: &[i64]) -> proto::AttributeProto {
    proto::AttributeProto {
        name: Some(name.into()),
        r#type: Some(7),
        ints: values.to_vec(),
        ..Default::default()
    }
}

fn string(name: &str, value: &str) -> proto::AttributeProto {
    proto::AttributeProto {
        name: Some(name.into()),
        r#type: Some(3),
        s: Some(value.to_owned().into()),
        ..Default::default()
    }
}

fn tensor_attribute(name: &str, tensor: proto::TensorProto) -> proto::AttributeProto {
    proto::AttributeProto {
        name: Some(name.into()),
        r#type: Some(4),
        t: MessageField::some(tensor),
        ..Default::default()
    }
}

fn empty(name: &str, data_type: i32, dims: &[i64]) -> proto::TensorProto {
    proto::TensorProto {
        name: Some(name.into()),
        data_type: Some(data_type),
        dims: dims.to_vec(),
        ..Default::default()
    }
}

fn raw(name: &str, data_type: i32, dims: &[i64], bytes: &[u8]) -> proto::TensorProto {
    proto::TensorProto {
        raw_data: Some(bytes.to_vec().into()),
        ..empty(name, data_type, dims)
    }
}

fn strings() -> proto::TensorProto {
    proto::TensorProto {
        dims: vec![2],
        data_type: Some(8),
        string_data: vec![b"one".to_vec().into(), vec![0xff].into()],
        doc_string: Some("words".into()),
        ..Default::default()
    }
}

fn floats(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

fn declared(name: &str, declared: proto::TypeProto) -> proto::ValueInfoProto {
    proto::ValueInfoProto {
        name: Some(name.into()),
        r#type: MessageField::some(declared),
        ..Default::default()
    }
}

fn tensor_type(sizes: &[Option<i64>]) -> proto::TypeProto {
    let dim = sizes.iter().map(|size| proto::tensor_shape_proto::Dimension {
        value: Some(match size {
            Some(size) => oneof::tensor_shape_proto::dimension::Value::DimValue(*size),
            None => oneof::tensor_shape_proto::dimension::Value::DimParam("batch".into()),
        }),
        ..Default::default()
    });
    let tensor = proto::type_proto::Tensor {
        elem_type: Some(1),
        shape: MessageField::some(proto::TensorShapeProto {
            dim: dim.collect(),
            ..Default::default()
        }),
        ..Default::default()
    };
    proto::TypeProto {
        value: Some(oneof::type_proto::Value::TensorType(Box::new(tensor))),
        ..Default::default()
    }
}

fn sequence() -> proto::TypeProto {
    let sequence = proto::type_proto::Sequence {
        elem_type: MessageField::some(tensor_type(&[])),
        ..Default::default()
    };
    proto::TypeProto {
        value: Some(oneof::type_proto::Value::SequenceType(Box::new(sequence))),
        ..Default::default()
    }
}

fn set(domain: &str, version: i64) -> proto::OperatorSetIdProto {
    proto::OperatorSetIdProto {
        domain: Some(domain.into()),
        version: Some(version),
        ..Default::default()
    }
}

fn entry(key: &str, value: &str) -> proto::StringStringEntryProto {
    proto::StringStringEntryProto {
        key: Some(key.into()),
        value: Some(value.into()),
        ..Default::default()
    }
}
