//! What is inferred is what comes out.

use buffa::Message;
use kmr_model::{DType, Dimension, Model, codec, proto, shapes};

/// The outputs that are compared, how many are known completely, and what contradicts.
#[derive(Default)]
struct Count {
    outputs: usize,
    known: usize,
    wrong: Vec<String>,
}

/// `model` with its feeds turned into initializers of these values.
fn fed(model: &Model, inputs: &[Option<bytes::Bytes>]) -> Option<Model> {
    let mut graph = model.graph.clone();
    let feeds: Vec<String> = model.graph.feeds().map(|feed| feed.name().to_owned()).collect();
    let names: Vec<String> = match inputs.len() <= feeds.len() {
        true => feeds,
        false => model.graph.inputs.iter().map(|input| input.name().to_owned()).collect(),
    };
    for (name, bytes) in names.iter().zip(inputs) {
        let declared = model.graph.inputs.iter().find(|input| input.name() == name)?;
        // Sequences and options stay feeds.
        if declared.dtype().is_none() {
            continue;
        }
        let message = proto::TensorProto::decode_from_slice(bytes.as_ref()?).ok()?;
        let tensor = codec::tensor_from_message(&message).ok()?;
        graph.initializers.insert(name.clone(), tensor.into());
    }
    Some(model.with_graph(graph))
}

#[test]
fn expected_outputs_have_the_inferred_types() {
    let mut count = Count::default();
    for case in kmr_conformance::cases().expect("cases") {
        let model = Model::decode(case.model.clone()).expect("a model that is read");
        for set in &case.data {
            let Some(fed) = fed(&model, &set.inputs) else {
                continue;
            };
            let shapes = match shapes::infer_symbolic(&fed) {
                Ok(shapes) => shapes,
                Err(error) => {
                    count.wrong.push(format!("{}: {error}", case.path()));
                    continue;
                }
            };
            for (output, bytes) in model.graph.outputs.iter().zip(&set.outputs) {
                let Some(bytes) = bytes.as_ref().filter(|_| output.dtype().is_some()) else {
                    continue;
                };
                let expected = proto::TensorProto::decode_from_slice(bytes).expect("a tensor");
                count.outputs += 1;
                let Some(found) = shapes.partial(output.name()) else {
                    continue;
                };
                let fits = |(size, &expected): (&Dimension, &i64)| match size {
                    Dimension::Fixed(size) => i64::try_from(*size) == Ok(expected),
                    _ => true,
                };
                let dtype = expected.data_type.map(DType::from_number);
                // Old data sets hold bfloat16 numbers in the type that NumPy had for them.
                let fits_type =
                    |found: DType| Some(found) == dtype || (found == DType::BFLOAT16 && dtype == Some(DType::UINT16));
                let contradicts = found.dtype.is_some_and(|found| !fits_type(found))
                    || found.shape.as_ref().is_some_and(|shape| {
                        shape.len() != expected.dims.len() || !shape.iter().zip(&expected.dims).all(fits)
                    });
                count.known += usize::from(shapes.get(output.name()).is_some());
                if contradicts {
                    let place = format!("{} `{}`", case.path(), output.name());
                    count.wrong.push(format!(
                        "{place}: inferred {found:?}, expected {:?} {dtype:?}",
                        expected.dims
                    ));
                }
            }
        }
    }
    println!("{} of {} outputs are known completely", count.known, count.outputs);
    assert!(count.wrong.is_empty(), "{}", count.wrong.join("\n"));
    assert!(
        count.outputs > 2_000 && count.known * 100 > count.outputs * 97,
        "{} of {}",
        count.known,
        count.outputs
    );
}
