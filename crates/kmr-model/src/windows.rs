//! What each place of a convolution or matrix product multiplies its weights with, as rows of a matrix.

use crate::{ErrorKind, ModelError, Node};

type Result<T> = std::result::Result<T, ModelError>;

/// How a node reads its input: rows of `columns` numbers for each of its groups.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reading {
    /// The last dimension of the input.
    Last,
    /// Windows over up to two spatial dimensions, the missing one having size 1.
    Windows(Window),
}

/// Kernel, strides, dilations and padding: down, then across.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Window {
    kernel: [usize; 2],
    strides: [usize; 2],
    dilations: [usize; 2],
    padding: Padding,
    groups: usize,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Padding {
    /// Before and after, for both dimensions.
    Explicit([[usize; 2]; 2]),
    /// As much as keeps the size, the odd one before (`true`) or after.
    Same(bool),
}

impl Reading {
    /// How `node` reads its first input with weights of this shape.
    ///
    /// # Errors
    /// If an attribute makes no sense.
    pub fn of(node: &Node, shape: &[usize], groups: usize) -> Result<Self> {
        if !node.is("Conv") {
            return Ok(Self::Last);
        }
        let malformed = || {
            let message = "has attributes that do not fit its weights";
            ModelError::new(ErrorKind::Unsupported, node.label(), message)
        };
        let pair = |name: &str, missing: usize| match node.ints(name) {
            None => Ok([missing, missing]),
            Some(&[one]) => Ok([missing, usize::try_from(one).map_err(|_| malformed())?]),
            Some(&[first, second]) => {
                let size = |value: i64| usize::try_from(value).map_err(|_| malformed());
                Ok([size(first)?, size(second)?])
            }
            _ => Err(malformed()),
        };
        let kernel = match shape {
            [_, _, across] => [1, *across],
            [_, _, down, across] => [*down, *across],
            _ => return Err(malformed()),
        };
        let padding = match node.string("auto_pad").unwrap_or("NOTSET") {
            "SAME_UPPER" => Padding::Same(false),
            "SAME_LOWER" => Padding::Same(true),
            "VALID" => Padding::Explicit([[0; 2]; 2]),
            _ => {
                let size = |value: i64| usize::try_from(value).map_err(|_| malformed());
                match node.ints("pads") {
                    None => Padding::Explicit([[0; 2]; 2]),
                    Some(&[before, after]) => Padding::Explicit([[0; 2], [size(before)?, size(after)?]]),
                    Some(&[top, left, bottom, right]) => {
                        Padding::Explicit([[size(top)?, size(bottom)?], [size(left)?, size(right)?]])
                    }
                    _ => return Err(malformed()),
                }
            }
        };
        let window = Window {
            kernel,
            strides: pair("strides", 1)?.map(|stride| stride.max(1)),
            dilations: pair("dilations", 1)?.map(|dilation| dilation.max(1)),
            padding,
            groups: groups.max(1),
        };
        Ok(Self::Windows(window))
    }

    /// The rows of an input of this shape as the node reads it.
    ///
    /// # Errors
    /// If the node cannot read such a shape.
    pub fn rows<'v>(&self, shape: &[usize], values: &'v [f32]) -> Result<Rows<'v>> {
        let wrong = || {
            let message = format!("a value of shape {shape:?} cannot be observed here");
            ModelError::new(ErrorKind::Unsupported, "", message)
        };
        match self {
            Self::Last => {
                let columns = *shape.last().filter(|&&size| size > 0).ok_or_else(wrong)?;
                let count = values.len() / columns;
                Ok(Rows::Last { values, columns, count })
            }
            Self::Windows(window) => {
                let (batch, channels, size) = match *shape {
                    [batch, channels, across] => (batch, channels, [1, across]),
                    [batch, channels, down, across] => (batch, channels, [down, across]),
                    _ => return Err(wrong()),
                };
                let ends = [window.axis(0, size[0]), window.axis(1, size[1])];
                let [Some(down), Some(across)] = ends else {
                    return Err(wrong());
                };
                if channels == 0 || channels % window.groups != 0 {
                    return Err(wrong());
                }
                Ok(Rows::Windows {
                    values,
                    window: window.clone(),
                    channels,
                    size,
                    places: [down.0, across.0],
                    before: [down.1, across.1],
                    count: batch * down.0 * across.0,
                })
            }
        }
    }
}

impl Window {
    /// Places along one dimension of this size, and the padding before it; none if the kernel does not fit.
    fn axis(&self, axis: usize, size: usize) -> Option<(usize, usize)> {
        let reach = (self.kernel[axis].max(1) - 1) * self.dilations[axis] + 1;
        let stride = self.strides[axis];
        match self.padding {
            Padding::Explicit(padding) => {
                let [before, after] = padding[axis];
                Some(((size + before + after).checked_sub(reach)? / stride + 1, before))
            }
            Padding::Same(lower) => {
                let places = size.div_ceil(stride);
                let padding = ((places.max(1) - 1) * stride + reach).saturating_sub(size);
                Some((places, if lower { padding.div_ceil(2) } else { padding / 2 }))
            }
        }
    }
}

/// The rows that a node multiplies its weights with on a batch.
pub enum Rows<'v> {
    Last {
        values: &'v [f32],
        columns: usize,
        count: usize,
    },
    Windows {
        values: &'v [f32],
        window: Window,
        channels: usize,
        size: [usize; 2],
        places: [usize; 2],
        before: [usize; 2],
        count: usize,
    },
}

impl Rows<'_> {
    /// How many rows each group has.
    pub fn count(&self) -> usize {
        match self {
            Self::Last { count, .. } | Self::Windows { count, .. } => *count,
        }
    }

    /// The numbers in a row.
    pub fn columns(&self) -> usize {
        match self {
            Self::Last { columns, .. } => *columns,
            Self::Windows { window, channels, .. } => channels / window.groups * window.kernel[0] * window.kernel[1],
        }
    }

    /// Writes row `row` of `group`, of as many numbers as there are columns.
    pub fn write(&self, group: usize, row: usize, into: &mut [f32]) {
        match self {
            Self::Last { values, columns, .. } => into.copy_from_slice(&values[row * columns..][..*columns]),
            Self::Windows {
                values,
                window,
                channels,
                size,
                places,
                before,
                ..
            } => {
                let (image, place) = (row / (places[0] * places[1]), row % (places[0] * places[1]));
                let start = [
                    place / places[1] * window.strides[0],
                    place % places[1] * window.strides[1],
                ];
                let per_group = channels / window.groups;
                let mut into = into.iter_mut();
                for channel in group * per_group..(group + 1) * per_group {
                    let plane = &values[(image * channels + channel) * size[0] * size[1]..][..size[0] * size[1]];
                    for down in 0..window.kernel[0] {
                        let y = (start[0] + down * window.dilations[0]).checked_sub(before[0]);
                        for across in 0..window.kernel[1] {
                            let x = (start[1] + across * window.dilations[1]).checked_sub(before[1]);
                            let inside = y.zip(x).filter(|&(y, x)| y < size[0] && x < size[1]);
                            if let Some(slot) = into.next() {
                                *slot = inside.map_or(0.0, |(y, x)| plane[y * size[1] + x]);
                            }
                        }
                    }
                }
            }
        }
    }
}
