//! Resize and Upsample.

use super::{
    Dim,
    context::{Context, Outputs, Rule, Stop, Types::*, axes, contradiction, rule, show, single},
};

pub(super) fn operator(op: &str) -> Option<Rule> {
    match op {
        "Resize" | "Upsample" => rule(Same(&[0]), resize),
        _ => None,
    }
}

fn resize(context: &Context) -> Outputs {
    let input = context.shape(0)?;
    let resized = match context.node.ints("axes") {
        Some(given) => axes(given, input.len())?,
        None => (0..input.len()).collect(),
    };
    let mut shape = input.to_vec();
    let mut set = |sizes: Vec<Dim>| {
        resized
            .iter()
            .zip(sizes)
            .for_each(|(&position, size)| shape[position] = size);
    };
    // Resize has a region of interest between input and scales since operator set 11.
    let late = context.node.is("Resize") && context.opset >= 11;
    let empty = |position| matches!(context.optional_shape(position), Some([Dim::Fixed(0)]));
    if late && context.has(3) && !empty(3) {
        let wanted = match context.list(3) {
            Err(Stop::Unknown) => vec![Dim::Unknown; resized.len()],
            wanted => wanted?,
        };
        if wanted.len() != resized.len() {
            return contradiction(format!("sizes {} do not fit {} axes", show(&wanted), resized.len()));
        }
        let policy = context.node.string("keep_aspect_ratio_policy").unwrap_or("stretch");
        set(match policy {
            "stretch" => wanted,
            policy => kept_ratio(
                policy,
                &wanted,
                &resized.iter().map(|&axis| &input[axis]).collect::<Vec<_>>(),
            ),
        });
        return single(shape);
    }
    // Regions scale sizes, too.
    if context.node.string("coordinate_transformation_mode") == Some("tf_crop_and_resize") {
        set(vec![Dim::Unknown; resized.len()]);
        return single(shape);
    }
    let scales: Option<Vec<f64>> = match context.node.attribute("scales") {
        Some(attribute) => Some(attribute.floats.iter().map(|&scale| scale.into()).collect()),
        None if context.opset < 7 => {
            let scale = |name| context.node.float(name).map(f64::from);
            scale("height_scale")
                .zip(scale("width_scale"))
                .map(|(height, width)| vec![1.0, 1.0, height, width])
        }
        None => match context.floats(if late { 2 } else { 1 }) {
            Err(Stop::Unknown) => None,
            scales => Some(scales?.to_vec()),
        },
    };
    match scales {
        Some(scales) if scales.len() != resized.len() => {
            return contradiction(format!("scales {scales:?} do not fit {} axes", resized.len()));
        }
        Some(scales) => {
            let sizes = resized
                .iter()
                .zip(scales)
                .map(|(&axis, scale)| scaled(&input[axis], scale));
            set(sizes.collect::<Result<_, _>>()?);
        }
        None => set(vec![Dim::Unknown; resized.len()]),
    }
    single(shape)
}

/// `size * scale` rounded down, in the precision that it is computed in.
fn scaled(size: &Dim, scale: f64) -> Result<Dim, Stop> {
    if !scale.is_finite() || scale <= 0.0 {
        return contradiction(format!("scale {scale} is not usable"));
    }
    if let Some(size) = size.fixed() {
        let scaled = (size as f32 * scale as f32).floor();
        return Ok(Dim::Fixed(scaled as i128));
    }
    // For open sizes, only scales that are computed with exactly: few digits over a power of two.
    let power = (0..=8_u32).find(|&power| (scale * f64::from(1_u32 << power)).fract() == 0.0);
    Ok(match power {
        Some(power) if scale <= 256.0 => {
            let (over, under) = ((scale * f64::from(1_u32 << power)) as i128, 1_i128 << power);
            size.times(over).floor_div(under)
        }
        _ => Dim::Unknown,
    })
}

/// Sizes that keep the ratio of the input's: all are scaled like the one that `policy` picks.
fn kept_ratio(policy: &str, wanted: &[Dim], given: &[&Dim]) -> Vec<Dim> {
    let unknown = || vec![Dim::Unknown; wanted.len()];
    let pairs = wanted
        .iter()
        .zip(given)
        .map(|(wanted, given)| Some((wanted.fixed()?, given.fixed()?)));
    let Some(pairs) = pairs.collect::<Option<Vec<(i128, i128)>>>() else {
        return unknown();
    };
    let usable = |&(wanted, given): &(i128, i128)| (0..=1 << 32).contains(&wanted) && (1..=1 << 32).contains(&given);
    if !pairs.iter().all(usable) {
        return unknown();
    }
    let ratio = |a: &&(i128, i128), b: &&(i128, i128)| (a.0 * b.1).cmp(&(b.0 * a.1));
    let scale = match policy {
        "not_larger" => pairs.iter().min_by(ratio),
        "not_smaller" => pairs.iter().max_by(ratio),
        _ => None,
    };
    let Some(&(over, under)) = scale else {
        return unknown();
    };
    let sizes = pairs.iter().map(|&(_, given)| {
        let doubled = 2 * given * over;
        // Halves are rounded up, but how a half comes out depends on the precision.
        if doubled % under == 0 && (doubled / under) % 2 == 1 {
            return Dim::Unknown;
        }
        Dim::Fixed((doubled + under).div_euclid(2 * under))
    });
    sizes.collect()
}
