//! Attributes that became inputs, and names that changed.

use super::super::site::{Refusal, Site};
use crate::{Tensor, proto};

/// Reductions, Squeeze and Unsqueeze: `axes` is input 1.
pub(in crate::upgrade) fn axes(site: &mut Site) -> Result<(), Refusal> {
    if let Some(axes) = site.take_ints("axes")? {
        let axes = site.integers("axes", axes);
        site.set_input(1, axes);
        site.note("the attribute `axes` is an input");
    }
    Ok(())
}

/// Clip: `min` and `max` are inputs. What was left out was the ends of float32, and clips infinities still.
pub(in crate::upgrade) fn clip(site: &mut Site) -> Result<(), Refusal> {
    let least = site.take_float("min")?.unwrap_or(f32::MIN);
    let greatest = site.take_float("max")?.unwrap_or(f32::MAX);
    for (position, role, value) in [(1, "min", least), (2, "max", greatest)] {
        let name = site.scalar_like(role, 0, value)?;
        site.set_input(position, name);
    }
    site.note("the attributes `min` and `max` are inputs");
    Ok(())
}

/// DFT: `axis` is input 2.
pub(in crate::upgrade) fn transform_axis(site: &mut Site) -> Result<(), Refusal> {
    let axis = site.take_int("axis")?.unwrap_or(1);
    let axis = site.constant("axis", &Tensor::scalar(axis));
    site.set_input(2, axis);
    site.note("the attribute `axis` is an input");
    Ok(())
}

/// Dropout: `ratio` is input 1.
pub(in crate::upgrade) fn ratio(site: &mut Site) -> Result<(), Refusal> {
    if let Some(ratio) = site.take_float("ratio")? {
        let ratio = site.constant("ratio", &Tensor::scalar(ratio));
        site.set_input(1, ratio);
        site.note("the attribute `ratio` is an input");
    }
    Ok(())
}

/// Pad: `pads` and `value` are inputs.
pub(in crate::upgrade) fn pads(site: &mut Site) -> Result<(), Refusal> {
    let pads = site.take_ints("pads")?.ok_or("it has no attribute `pads`")?;
    let value = site.take_float("value")?.unwrap_or(0.0);
    let pads = site.integers("pads", pads);
    site.set_input(1, pads);
    if value.to_bits() != 0 {
        let value = site.scalar_like("value", 0, value)?;
        site.set_input(2, value);
    }
    site.note("the attributes `pads` and `value` are inputs");
    Ok(())
}

/// Scatter: has another name.
pub(in crate::upgrade) fn scatter(site: &mut Site) -> Result<(), Refusal> {
    site.node.proto_mut().op_type = Some("ScatterElements".into());
    site.note("is ScatterElements");
    Ok(())
}

/// Slice: `starts`, `ends` and `axes` are inputs.
pub(in crate::upgrade) fn slice(site: &mut Site) -> Result<(), Refusal> {
    for (position, name) in [(1, "starts"), (2, "ends"), (3, "axes")] {
        match site.take_ints(name)? {
            Some(values) => {
                let values = site.integers(name, values);
                site.set_input(position, values);
            }
            None if name == "axes" => {}
            None => return Err(format!("it has no attribute `{name}`")),
        }
    }
    site.note("the attributes `starts`, `ends` and `axes` are inputs");
    Ok(())
}

/// Split: `split` is input 1.
pub(in crate::upgrade) fn split(site: &mut Site) -> Result<(), Refusal> {
    if let Some(sizes) = site.take_ints("split")? {
        let sizes = site.integers("split", sizes);
        site.set_input(1, sizes);
        site.note("the attribute `split` is an input");
    }
    Ok(())
}

/// Split: equal parts are counted by an attribute.
pub(in crate::upgrade) fn split_count(site: &mut Site) -> Result<(), Refusal> {
    if site.node.input(1).is_none() {
        let count = site.node.outputs().len() as i64;
        site.node = site.node.clone().with_int("num_outputs", count);
        site.note("says how many parts it makes");
    }
    Ok(())
}

/// TopK: `k` is input 1.
pub(in crate::upgrade) fn top(site: &mut Site) -> Result<(), Refusal> {
    let count = site.take_int("k")?.ok_or("it has no attribute `k`")?;
    let count = site.integers("k", vec![count]);
    site.set_input(1, count);
    site.note("the attribute `k` is an input");
    Ok(())
}

/// Upsample: `scales` is input 1.
pub(in crate::upgrade) fn scales(site: &mut Site) -> Result<(), Refusal> {
    let attribute: Option<proto::AttributeProto> = site.take("scales")?;
    let scales = attribute.ok_or("it has no attribute `scales`")?.floats;
    let scales = site.constant("scales", &Tensor::from_vec(vec![scales.len()], scales));
    site.set_input(1, scales);
    site.note("the attribute `scales` is an input");
    Ok(())
}
