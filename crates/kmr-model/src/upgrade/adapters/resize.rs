//! Sampling between pixels.

use super::super::site::{Refusal, Site};
use crate::Tensor;

const MODE: &str = "coordinate_transformation_mode";

/// Upsample: is a Resize. Its scales are at least 1, and its nearest pixel is the one before.
pub(in crate::upgrade) fn upsample(site: &mut Site) -> Result<(), Refusal> {
    site.node.proto_mut().op_type = Some("Resize".into());
    // At operator set 10 a Resize has no such attributes, and rounds like this by itself.
    if site.to > 10 {
        complete(site, "floor");
    }
    site.note("is Resize");
    Ok(())
}

/// Resize: there is a region, and the mapping of coordinates is spelled out.
///
/// The first definition left the rounding of the nearest pixel open; runtimes take the pixel before where they
/// enlarge, and the pixel after where they reduce.
pub(in crate::upgrade) fn coordinates(site: &mut Site) -> Result<(), Refusal> {
    if site.node.attribute(MODE).is_none() {
        let nearest = site.node.string("mode").unwrap_or("nearest") == "nearest";
        let scales = site.facts.floats(site.node.input(1).unwrap_or_default());
        let rounding = match scales {
            _ if !nearest => "floor",
            Some(scales) if scales.iter().all(|&scale| scale >= 1.0) => "floor",
            Some(scales) if scales.iter().all(|&scale| scale <= 1.0) => "ceil",
            Some(_) => return Err("it enlarges one axis and reduces another to the nearest pixel".into()),
            None => {
                return Err("its scales are computed, so that the rounding to the nearest pixel is not known".into());
            }
        };
        complete(site, rounding);
    }
    let scales = site.node.input(1).unwrap_or_default().to_owned();
    let none = site.constant("roi", &Tensor::from_vec(vec![0], Vec::<f32>::new()));
    site.set_input(1, none);
    site.set_input(2, scales);
    site.note("says how coordinates are mapped");
    Ok(())
}

fn complete(site: &mut Site, rounding: &str) {
    let node = site.node.clone().with_string(MODE, "asymmetric");
    site.node = match node.string("mode").unwrap_or("nearest") {
        "nearest" => node.with_string("nearest_mode", rounding),
        _ => node,
    };
}

/// Resize: one mapping of coordinates is no more.
pub(in crate::upgrade) fn removed_mode(site: &mut Site) -> Result<(), Refusal> {
    match site.node.string(MODE) {
        Some(mode @ "tf_half_pixel_for_nn") => Err(format!("the mapping of coordinates `{mode}` was removed")),
        _ => Ok(()),
    }
}

/// RoiAlign: the default mapping of coordinates is another.
pub(in crate::upgrade) fn regions(site: &mut Site) -> Result<(), Refusal> {
    site.node = site.node.clone().with_string(MODE, "output_half_pixel");
    site.note("says how coordinates are mapped");
    Ok(())
}

/// GridSample: modes have other names.
pub(in crate::upgrade) fn grid_modes(site: &mut Site) -> Result<(), Refusal> {
    let renamed = match site.node.string("mode") {
        Some("bilinear") => "linear",
        Some("bicubic") => "cubic",
        _ => return Ok(()),
    };
    site.node = site.node.clone().with_string("mode", renamed);
    site.note(format!("the mode is called {renamed}"));
    Ok(())
}
