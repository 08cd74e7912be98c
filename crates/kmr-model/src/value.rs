//! Declared types of values.

use std::fmt;

use buffa::MessageField;

use crate::{DType, proto};
use proto::__buffa::oneof::tensor_shape_proto::dimension::Value as DimensionValue;
use proto::__buffa::oneof::type_proto::Value as TypeValue;

/// One dimension of a declared shape.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Dimension {
    /// A fixed size.
    Fixed(usize),
    /// A named size, known at run time.
    Named(String),
    /// Unknown.
    Unknown,
}

impl fmt::Display for Dimension {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Fixed(size) => write!(f, "{size}"),
            Self::Named(name) => f.write_str(name),
            Self::Unknown => f.write_str("?"),
        }
    }
}

/// The declaration of a value: a graph input, a graph output or an annotated inner value.
#[derive(Clone, Debug, PartialEq)]
pub struct ValueInfo(pub(crate) proto::ValueInfoProto);

impl ValueInfo {
    /// A tensor declaration.
    pub fn tensor(name: &str, dtype: DType, shape: &[Dimension]) -> Self {
        let mut value = Self::untyped(name);
        value.retype(dtype, shape);
        value
    }

    /// A declaration of the name alone, whose type follows from the graph.
    pub fn untyped(name: &str) -> Self {
        Self(proto::ValueInfoProto {
            name: Some(name.into()),
            ..Default::default()
        })
    }

    /// The value's name.
    pub fn name(&self) -> &str {
        self.0.name.as_deref().unwrap_or_default()
    }

    /// The element type, if the value is declared as a tensor.
    pub fn dtype(&self) -> Option<DType> {
        self.tensor_type()?.elem_type.map(DType::from_number)
    }

    /// The declared shape, if there is one.
    pub fn shape(&self) -> Option<Vec<Dimension>> {
        Some(dimensions(self.tensor_type()?.shape.as_option()?))
    }

    /// Declares the value as a tensor of this type.
    pub fn retype(&mut self, dtype: DType, shape: &[Dimension]) {
        let dim = shape
            .iter()
            .map(|dimension| proto::tensor_shape_proto::Dimension {
                value: match dimension {
                    Dimension::Fixed(size) => Some(DimensionValue::DimValue(*size as i64)),
                    Dimension::Named(name) => Some(DimensionValue::DimParam(name.clone())),
                    Dimension::Unknown => None,
                },
                ..Default::default()
            })
            .collect();
        let tensor = proto::type_proto::Tensor {
            elem_type: Some(dtype.number()),
            shape: MessageField::some(proto::TensorShapeProto {
                dim,
                ..Default::default()
            }),
            ..Default::default()
        };
        let declared = proto::TypeProto {
            value: Some(TypeValue::TensorType(Box::new(tensor))),
            ..Default::default()
        };
        self.0.r#type = MessageField::some(declared);
    }

    /// A declared size that no tensor has; -1 is how some exporters spell an unknown one.
    pub(crate) fn impossible_size(&self) -> Option<i64> {
        let sizes = self.tensor_type()?.shape.as_option()?.dim.iter();
        let mut sizes = sizes.filter_map(|dimension| match dimension.value {
            Some(DimensionValue::DimValue(size)) => Some(size),
            _ => None,
        });
        sizes.find(|&size| size < -1)
    }

    fn tensor_type(&self) -> Option<&proto::type_proto::Tensor> {
        match &self.0.r#type.as_option()?.value {
            Some(TypeValue::TensorType(tensor)) => Some(tensor),
            _ => None,
        }
    }
}

/// The dimensions of a declared shape; a negative size is unknown.
pub(crate) fn dimensions(shape: &proto::TensorShapeProto) -> Vec<Dimension> {
    let sizes = shape.dim.iter().map(|dimension| match &dimension.value {
        Some(DimensionValue::DimValue(size)) => usize::try_from(*size).map_or(Dimension::Unknown, Dimension::Fixed),
        // Some exporters name every open size `?`, equal or not.
        Some(DimensionValue::DimParam(name)) if !matches!(name.as_str(), "" | "?") => Dimension::Named(name.clone()),
        _ => Dimension::Unknown,
    });
    sizes.collect()
}
