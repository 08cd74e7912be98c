//! The gradients of a convolution.

mod bias;
mod input;
mod outer;
mod products;
mod weights;

use crate::{Geometry, GeometryError, InstructionSet};

/// The gradients of a convolution, from the cotangent of its output.
///
/// No result depends on the number of threads. Cotangents have the shape of the convolution's output,
/// `[batch, out_channels, out_height, out_width]`; all methods run on the calling thread's rayon pool.
#[derive(Clone, Copy, Debug)]
pub struct Gradient {
    geometry: Geometry,
    instruction_set: InstructionSet,
}

impl Gradient {
    /// The gradients of a convolution of this geometry, for this processor.
    ///
    /// # Errors
    /// If the sizes do not fit each other.
    pub fn new(geometry: Geometry) -> Result<Self, GeometryError> {
        Self::for_instruction_set(geometry, InstructionSet::detect())
    }

    /// The same for a class of instructions, or portable code where this processor lacks it.
    ///
    /// # Errors
    /// If the sizes do not fit each other.
    pub fn for_instruction_set(geometry: Geometry, instruction_set: InstructionSet) -> Result<Self, GeometryError> {
        geometry.check()?;
        Ok(Self {
            geometry,
            instruction_set: instruction_set.or_portable(),
        })
    }

    /// Checks the length of the cotangent; returns the height and width of the output.
    fn output(&self, cotangent: &[f32], batch: usize, size: [usize; 2]) -> Result<[usize; 2], GeometryError> {
        let output = self.geometry.output(size)?;
        expect(
            "cotangent",
            cotangent,
            batch * self.geometry.out_channels * output[0] * output[1],
        )?;
        Ok(output)
    }
}

/// Checks the length of an operand.
fn expect(name: &str, values: &[f32], length: usize) -> Result<(), GeometryError> {
    if values.len() == length {
        Ok(())
    } else {
        Err(GeometryError(format!(
            "expected {length} values of the {name}; got {}",
            values.len()
        )))
    }
}

fn too_large() -> GeometryError {
    GeometryError("the convolution is too large to address".into())
}
