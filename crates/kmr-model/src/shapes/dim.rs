//! Sizes that may depend on named sizes: exact integer arithmetic in canonical form.
//!
//! A size is a sum of products of named sizes and rounded-down quotients. Two sizes that are spelled
//! alike are equal; those that are not may be equal all the same, and then nothing is claimed. Named
//! sizes are taken to be 1 or more.

use std::{collections::BTreeMap, fmt, sync::Arc};

/// Sums that name more sizes and quotients than this, inner ones included, are not followed.
const MOST_ATOMS: usize = 40;

/// An integer: a size, or an element of a small tensor that sizes are computed from.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Dim {
    /// This number; saturated where arithmetic left its range.
    Fixed(i128),
    /// This sum over named sizes; never a constant.
    Symbolic(Arc<Sum>),
    /// Nothing is known; not equal to another unknown.
    Unknown,
}

/// A sum of products: from the factors, sorted, to their coefficient, which is not 0.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Sum(BTreeMap<Vec<Atom>, i128>);

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Atom {
    /// A named size.
    Name(Arc<str>),
    /// The sum divided by a number above 1, rounded down.
    Quotient(Arc<Sum>, i128),
}

impl From<i128> for Dim {
    fn from(value: i128) -> Self {
        Self::Fixed(value)
    }
}

impl From<i64> for Dim {
    fn from(value: i64) -> Self {
        Self::Fixed(value.into())
    }
}

impl From<usize> for Dim {
    fn from(value: usize) -> Self {
        Self::Fixed(value as i128)
    }
}

impl From<i32> for Dim {
    fn from(value: i32) -> Self {
        Self::Fixed(value.into())
    }
}

impl From<bool> for Dim {
    fn from(value: bool) -> Self {
        Self::Fixed(value.into())
    }
}

impl From<&Dim> for Dim {
    fn from(value: &Dim) -> Self {
        value.clone()
    }
}

impl Dim {
    /// The named size `name`.
    pub fn named(name: &str) -> Self {
        Self::Symbolic(Arc::new(Sum(BTreeMap::from([(vec![Atom::Name(name.into())], 1)]))))
    }

    /// The number, where it is one.
    pub fn fixed(&self) -> Option<i128> {
        match self {
            Self::Fixed(value) => Some(*value),
            _ => None,
        }
    }

    /// Whether anything is known.
    pub fn is_known(&self) -> bool {
        !matches!(self, Self::Unknown)
    }

    /// Whether this is the number `value`.
    pub fn is(&self, value: i128) -> bool {
        self.fixed() == Some(value)
    }

    fn sum(&self) -> Option<Sum> {
        match self {
            Self::Fixed(0) => Some(Sum::default()),
            Self::Fixed(value) => Some(Sum(BTreeMap::from([(Vec::new(), *value)]))),
            Self::Symbolic(sum) => Some((**sum).clone()),
            Self::Unknown => None,
        }
    }

    fn of(sum: Option<Sum>) -> Self {
        let Some(sum) = sum.filter(|sum| sum.weight() <= MOST_ATOMS) else {
            return Self::Unknown;
        };
        match sum.0.first_key_value() {
            None => Self::Fixed(0),
            Some((factors, value)) if factors.is_empty() && sum.0.len() == 1 => Self::Fixed(*value),
            _ => Self::Symbolic(Arc::new(sum)),
        }
    }

    /// `self + other`.
    pub fn plus(&self, other: impl Into<Dim>) -> Self {
        match (self, &other.into()) {
            (Self::Fixed(a), Self::Fixed(b)) => Self::Fixed(a.saturating_add(*b)),
            (Self::Fixed(0), other) => other.clone(),
            (this, Self::Fixed(0)) => this.clone(),
            (this, other) => Self::of(this.sum().zip(other.sum()).and_then(|(a, b)| a.plus(&b, 1))),
        }
    }

    /// `self - other`.
    pub fn minus(&self, other: impl Into<Dim>) -> Self {
        match (self, &other.into()) {
            (Self::Fixed(a), Self::Fixed(b)) => Self::Fixed(a.saturating_sub(*b)),
            (this, Self::Fixed(0)) => this.clone(),
            (this, other) => Self::of(this.sum().zip(other.sum()).and_then(|(a, b)| a.plus(&b, -1))),
        }
    }

    /// `self * other`.
    pub fn times(&self, other: impl Into<Dim>) -> Self {
        match (self, &other.into()) {
            (Self::Fixed(a), Self::Fixed(b)) => Self::Fixed(a.saturating_mul(*b)),
            (Self::Fixed(1), other) => other.clone(),
            (this, Self::Fixed(1)) => this.clone(),
            (this, other) => Self::of(this.sum().zip(other.sum()).and_then(|(a, b)| a.times(&b))),
        }
    }

    /// `self / divisor` rounded down; unknown for a divisor of 0 or less.
    pub fn floor_div(&self, divisor: i128) -> Self {
        match self {
            _ if divisor <= 0 => Self::Unknown,
            Self::Fixed(value) => Self::Fixed(value.div_euclid(divisor)),
            Self::Symbolic(_) if divisor == 1 => self.clone(),
            Self::Symbolic(sum) => Self::of(sum.floor_div(divisor)),
            Self::Unknown => Self::Unknown,
        }
    }

    /// `self / divisor` rounded up; unknown for a divisor of 0 or less.
    pub fn ceil_div(&self, divisor: i128) -> Self {
        self.plus(divisor.saturating_sub(1)).floor_div(divisor)
    }

    /// The whole number `self / divisor`, where it is one for all named sizes; unknown elsewhere.
    pub fn exact_div(&self, divisor: &Dim) -> Self {
        match (self, divisor) {
            (Self::Fixed(a), Self::Fixed(b)) if *b != 0 && a % b == 0 => Self::Fixed(a / b),
            (this, Self::Fixed(1)) => this.clone(),
            (this, divisor) => Self::of(this.sum().zip(divisor.sum()).and_then(|(a, b)| a.exact_div(&b))),
        }
    }

    /// Whether the two are equal, where that is certain.
    pub fn equals(&self, other: &Dim) -> Option<bool> {
        match (self, other) {
            (Self::Fixed(a), Self::Fixed(b)) => Some(a == b),
            _ => match self.minus(other) {
                Self::Fixed(difference) => Some(difference == 0),
                difference if difference.minimum()? > 0 => Some(false),
                _ => None,
            },
        }
    }

    /// Whether `self < other`, where that is certain.
    pub fn below(&self, other: &Dim) -> Option<bool> {
        if other.minus(self).minimum().is_some_and(|least| least > 0) {
            return Some(true);
        }
        let falls_short = self.minus(other).minimum()?;
        (falls_short >= 0).then_some(false)
    }

    /// The least that this can be, where there is a bound.
    pub fn minimum(&self) -> Option<i128> {
        match self {
            Self::Fixed(value) => Some(*value),
            Self::Symbolic(sum) => sum.minimum(),
            Self::Unknown => None,
        }
    }

    /// What both can be at once: `None` if they certainly differ.
    pub fn unify(&self, other: &Dim) -> Option<Dim> {
        match (self, other) {
            (Self::Unknown, other) => Some(other.clone()),
            (this, Self::Unknown) => Some(this.clone()),
            (this, other) if this.equals(other) == Some(false) => None,
            (_, Self::Fixed(_)) => Some(other.clone()),
            (this, _) => Some(this.clone()),
        }
    }

    /// What holds of both: the size where they are equal, else unknown.
    pub fn join(&self, other: &Dim) -> Dim {
        match self.equals(other) {
            Some(true) => self.clone(),
            _ => Self::Unknown,
        }
    }
}

impl Sum {
    fn add(&mut self, factors: Vec<Atom>, coefficient: i128) -> Option<()> {
        let entry = self.0.entry(factors).or_insert(0);
        *entry = entry.checked_add(coefficient)?;
        Some(())
    }

    fn without_zeros(mut self) -> Self {
        self.0.retain(|_, coefficient| *coefficient != 0);
        self
    }

    fn plus(&self, other: &Self, sign: i128) -> Option<Self> {
        let mut result = self.clone();
        for (factors, coefficient) in &other.0 {
            result.add(factors.clone(), coefficient.checked_mul(sign)?)?;
        }
        Some(result.without_zeros())
    }

    fn times(&self, other: &Self) -> Option<Self> {
        let mut result = Self::default();
        for (left, a) in &self.0 {
            for (right, b) in &other.0 {
                let mut factors = [left.as_slice(), right].concat();
                factors.sort();
                result.add(factors, a.checked_mul(*b)?)?;
            }
        }
        Some(result.without_zeros())
    }

    /// The quotient by one product, if it divides every term.
    fn exact_div(&self, divisor: &Self) -> Option<Self> {
        if self == divisor {
            return Some(Self(BTreeMap::from([(Vec::new(), 1)])));
        }
        let ((divisors, by), 1) = (divisor.0.first_key_value()?, divisor.0.len()) else {
            return None;
        };
        let mut result = Self::default();
        for (factors, coefficient) in &self.0 {
            let mut rest = factors.clone();
            for divisor in divisors {
                rest.remove(rest.iter().position(|factor| factor == divisor)?);
            }
            if coefficient % by != 0 {
                return None;
            }
            result.add(rest, coefficient / by)?;
        }
        Some(result)
    }

    fn floor_div(&self, divisor: i128) -> Option<Self> {
        // Whole multiples of the divisor leave the quotient.
        let (mut whole, mut rest) = (Self::default(), Self::default());
        for (factors, &coefficient) in &self.0 {
            let taken = if factors.is_empty() || coefficient % divisor == 0 {
                coefficient.div_euclid(divisor)
            } else {
                0
            };
            whole.add(factors.clone(), taken)?;
            rest.add(factors.clone(), coefficient - taken * divisor)?;
        }
        let (whole, mut rest) = (whole.without_zeros(), rest.without_zeros());
        let constant = rest.0.remove(&Vec::new()).unwrap_or(0);
        if rest.0.is_empty() {
            // Only a constant below the divisor is left.
            return Some(whole);
        }
        // A common factor goes, for floor((g x + c) / (g d)) is floor((x + floor(c / g)) / d).
        let common = rest.0.values().fold(divisor, |common, &value| gcd(common, value));
        rest.0.values_mut().for_each(|value| *value /= common);
        let (constant, divisor) = (constant.div_euclid(common), divisor / common);
        if divisor == 1 {
            rest.add(Vec::new(), constant)?;
            return whole.plus(&rest.without_zeros(), 1);
        }
        // floor((floor(x / a) + c) / d) is floor((x + a c) / (a d)).
        if let (Some((factors, 1)), 1) = (rest.0.first_key_value(), rest.0.len())
            && let [Atom::Quotient(inner, by)] = factors.as_slice()
        {
            let mut inner = (**inner).clone();
            inner.add(Vec::new(), constant.checked_mul(*by)?)?;
            let quotient = inner.without_zeros().floor_div(divisor.checked_mul(*by)?)?;
            return whole.plus(&quotient, 1);
        }
        rest.add(Vec::new(), constant)?;
        let rest = rest.without_zeros();
        let quotient = Self(BTreeMap::from([(vec![Atom::Quotient(Arc::new(rest), divisor)], 1)]));
        whole.plus(&quotient, 1)
    }

    fn weight(&self) -> usize {
        let atoms = self.0.keys().flatten();
        let weights = atoms.map(|atom| match atom {
            Atom::Name(_) => 1,
            Atom::Quotient(inner, _) => 1 + inner.weight(),
        });
        weights.sum()
    }

    fn minimum(&self) -> Option<i128> {
        let mut total = 0_i128;
        for (factors, &coefficient) in &self.0 {
            if coefficient < 0 && !factors.is_empty() {
                return None;
            }
            let mut least = coefficient;
            for factor in factors {
                let factor = match factor {
                    Atom::Name(_) => 1,
                    Atom::Quotient(inner, by) => inner.minimum()?.div_euclid(*by),
                };
                // A product of factors that can be negative has no such bound.
                if factor < 0 {
                    return None;
                }
                least = least.checked_mul(factor)?;
            }
            total = total.checked_add(least)?;
        }
        Some(total)
    }
}

fn gcd(a: i128, b: i128) -> i128 {
    let (mut a, mut b) = (a.unsigned_abs(), b.unsigned_abs());
    while b != 0 {
        (a, b) = (b, a % b);
    }
    i128::try_from(a).unwrap_or(1).max(1)
}

impl fmt::Display for Dim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Fixed(value) => write!(f, "{value}"),
            Self::Symbolic(sum) => write!(f, "{sum}"),
            Self::Unknown => f.write_str("?"),
        }
    }
}

impl fmt::Display for Sum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The constant comes last, as people write it.
        let constant = self.0.iter().filter(|(factors, _)| factors.is_empty());
        let terms = self.0.iter().filter(|(factors, _)| !factors.is_empty()).chain(constant);
        for (position, (factors, &coefficient)) in terms.enumerate() {
            match (position, coefficient < 0) {
                (0, false) => {}
                (0, true) => f.write_str("-")?,
                (_, false) => f.write_str(" + ")?,
                (_, true) => f.write_str(" - ")?,
            }
            let size = coefficient.unsigned_abs();
            let factors: Vec<String> = factors.iter().map(Atom::to_string).collect();
            match (size, factors.is_empty()) {
                (1, false) => f.write_str(&factors.join("*"))?,
                (size, false) => write!(f, "{size}*{}", factors.join("*"))?,
                (size, true) => write!(f, "{size}")?,
            }
        }
        Ok(())
    }
}

impl fmt::Display for Atom {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(name) => f.write_str(name),
            Self::Quotient(inner, by) => write!(f, "floor(({inner})/{by})"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_sizes_are_spelled_alike() {
        let h = Dim::named("h");
        let strided = |size: &Dim| size.minus(1).floor_div(2).plus(1);
        assert_eq!(strided(&strided(&h)).to_string(), "floor((h + 3)/4)");
        assert_eq!(h.times(2).plus(1).floor_div(2), h);
        assert_eq!(h.times(6).plus(5).floor_div(4).to_string(), "floor((3*h)/2) + 1");
        let n = Dim::named("n");
        assert_eq!(n.times(&h).times(12).exact_div(&n.times(4)), h.times(3));
        assert_eq!(n.exact_div(&h), Dim::Unknown);
        assert_eq!(h.plus(1).times(h.minus(1)).to_string(), "h*h - 1");
    }

    #[test]
    fn only_what_is_certain_is_claimed() {
        let (h, n) = (Dim::named("h"), Dim::named("n"));
        assert_eq!(h.equals(&h.clone()), Some(true));
        assert_eq!(h.equals(&h.plus(1)), Some(false));
        assert_eq!(h.equals(&n), None);
        assert_eq!(h.equals(&Dim::from(3)), None);
        assert_eq!(h.equals(&Dim::from(0)), Some(false));
        assert_eq!(Dim::from(1).below(&h.plus(1)), Some(true));
        assert_eq!(h.below(&n), None);
        assert_eq!(Dim::Unknown.equals(&Dim::Unknown), None);
        assert_eq!(Dim::from(i128::MAX).times(2), Dim::from(i128::MAX));
    }

    /// Evaluating the canonical form gives what plain arithmetic gives.
    #[test]
    fn arithmetic_is_exact() {
        let h = Dim::named("h");
        for (multiplier, offset, first, second) in [(1, 0, 2, 3), (3, 5, 4, 2), (6, -1, 4, 6), (5, 7, 10, 15)] {
            let symbolic = h
                .times(multiplier)
                .plus(offset)
                .floor_div(first)
                .plus(offset)
                .floor_div(second);
            for size in 1..60_i128 {
                let plain = (size * i128::from(multiplier) + i128::from(offset)).div_euclid(first);
                let plain = (plain + i128::from(offset)).div_euclid(second);
                assert_eq!(evaluate(&symbolic, size), plain, "{symbolic} at {size}");
            }
        }
    }

    fn evaluate(dim: &Dim, size: i128) -> i128 {
        match dim {
            Dim::Fixed(value) => *value,
            Dim::Symbolic(sum) => evaluate_sum(sum, size),
            Dim::Unknown => unreachable!("nothing here is unknown"),
        }
    }

    fn evaluate_sum(sum: &Sum, size: i128) -> i128 {
        let terms = sum.0.iter().map(|(factors, coefficient)| {
            let factors = factors.iter().map(|factor| match factor {
                Atom::Name(_) => size,
                Atom::Quotient(inner, by) => evaluate_sum(inner, size).div_euclid(*by),
            });
            coefficient * factors.product::<i128>()
        });
        terms.sum()
    }
}
