//! Geometries.

use kmr_kernels::Geometry;
use proptest::prelude::*;

/// Geometries whose kernel fits, each with a batch and the size of an input.
pub fn geometries() -> impl Strategy<Value = (Geometry, usize, [usize; 2])> {
    let sizes = (1_usize..4, 1_usize..14, 1_usize..14, 1_usize..5);
    let taps = (1_usize..5, 1_usize..5, 1_usize..4, 1_usize..4, 1_usize..4, 1_usize..4);
    let pads = [0_usize..4, 0_usize..4, 0_usize..4, 0_usize..4];
    (sizes, taps, pads, 1_usize..20, 1_usize..20).prop_filter_map(
        "the kernel must fit",
        |((groups, ins, outs, batch), (kh, kw, sh, sw, dh, dw), pads, height, width)| {
            let groups = if groups == 3 { ins } else { groups };
            let (in_channels, out_channels) = if groups == ins {
                (ins, ins * (outs % 3 + 1))
            } else {
                (ins * groups, outs * groups)
            };
            let geometry = Geometry {
                in_channels,
                out_channels,
                groups,
                kernel: [kh, kw],
                stride: [sh, sw],
                dilation: [dh, dw],
                pads,
            };
            geometry.output([height, width]).ok()?;
            Some((geometry, batch, [height, width]))
        },
    )
}
