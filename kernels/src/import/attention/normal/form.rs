//! What an element is, as far as a layer normalisation may be made of it.

/// How far factors that ought to be the same may be apart, of themselves.
const TOLERANCE: f64 = 1e-6;

/// Which elements are normalised together.
pub(super) type Group = usize;

/// `x · element + mean · (mean of a group) + constant`. An element and a mean with the factor 0 stay known.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub(super) struct Linear {
    pub(super) element: Option<u32>,
    pub(super) x: f64,
    pub(super) group: Option<Group>,
    pub(super) mean: f64,
    pub(super) constant: f64,
}

/// What an element is.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Form {
    Linear(Linear),
    /// `factor · (element - mean)²`.
    Square {
        element: u32,
        group: Group,
        factor: f64,
    },
    /// `factor · variance + constant`.
    Variance {
        group: Group,
        factor: f64,
        constant: f64,
    },
    /// `factor · sqrt(variance + epsilon)`.
    Deviation {
        group: Group,
        factor: f64,
        epsilon: f64,
    },
    /// `factor / sqrt(variance + epsilon)`.
    Inverse {
        group: Group,
        factor: f64,
        epsilon: f64,
    },
    /// `(sum without its constant) / sqrt(variance + epsilon) + constant of the sum`.
    Normal {
        sum: Linear,
        group: Group,
        epsilon: f64,
    },
}

fn near(a: f64, b: f64) -> bool {
    (a - b).abs() <= TOLERANCE * a.abs().max(b.abs())
}

/// The one that is known; two must be the same.
fn either<T: PartialEq + Copy>(a: Option<T>, b: Option<T>) -> Option<Option<T>> {
    match (a, b) {
        (Some(a), Some(b)) => (a == b).then_some(Some(a)),
        (a, b) => Some(a.or(b)),
    }
}

impl Linear {
    pub(super) fn constant(constant: f64) -> Linear {
        Linear { constant, ..Linear::default() }
    }

    fn is_constant(&self) -> bool {
        self.element.is_none() && self.group.is_none()
    }

    pub(super) fn times(self, factor: f64, offset: f64) -> Linear {
        Linear {
            x: self.x * factor,
            mean: self.mean * factor,
            constant: self.constant * factor + offset,
            ..self
        }
    }

    pub(super) fn plus(self, other: Linear) -> Option<Linear> {
        Some(Linear {
            element: either(self.element, other.element)?,
            x: self.x + other.x,
            group: either(self.group, other.group)?,
            mean: self.mean + other.mean,
            constant: self.constant + other.constant,
        })
    }

    /// The element and group of a multiple of `element - mean`.
    pub(super) fn distance(&self) -> Option<(u32, Group)> {
        near(self.x, -self.mean).then_some(())?;
        Some((self.element?, self.group?))
    }
}

impl Form {
    pub(super) fn times(self, by: f64, offset: f64) -> Option<Form> {
        Some(match self {
            Form::Linear(sum) => Form::Linear(sum.times(by, offset)),
            Form::Normal { sum, group, epsilon } => {
                Form::Normal { sum: sum.times(by, offset), group, epsilon }
            }
            Form::Variance { group, factor, constant } => {
                Form::Variance { group, factor: factor * by, constant: constant * by + offset }
            }
            Form::Square { element, group, factor } if offset == 0.0 => {
                Form::Square { element, group, factor: factor * by }
            }
            Form::Deviation { group, factor, epsilon } if offset == 0.0 => {
                Form::Deviation { group, factor: factor * by, epsilon }
            }
            Form::Inverse { group, factor, epsilon } if offset == 0.0 => {
                Form::Inverse { group, factor: factor * by, epsilon }
            }
            _ => return None,
        })
    }

    pub(super) fn plus(self, other: Form) -> Option<Form> {
        match (self, other) {
            (Form::Linear(a), Form::Linear(b)) => Some(Form::Linear(a.plus(b)?)),
            (form, Form::Linear(sum)) | (Form::Linear(sum), form) if sum.is_constant() => {
                form.times(1.0, sum.constant)
            }
            (
                Form::Normal { sum, group, epsilon },
                Form::Normal { sum: other, group: own, epsilon: same },
            ) if (group, epsilon) == (own, same) => {
                Some(Form::Normal { sum: sum.plus(other)?, group, epsilon })
            }
            _ => None,
        }
    }

    pub(super) fn product(self, other: Form) -> Option<Form> {
        match (self, other) {
            (form, Form::Linear(sum)) | (Form::Linear(sum), form) if sum.is_constant() => {
                form.times(sum.constant, 0.0)
            }
            (Form::Linear(a), Form::Linear(b)) => {
                let (element, group) = a.distance()?;
                let square = Form::Square { element, group, factor: a.x * b.x };
                (b.distance()? == (element, group) && a.constant == 0.0 && b.constant == 0.0)
                    .then_some(square)
            }
            (Form::Linear(sum), Form::Inverse { group, factor, epsilon })
            | (Form::Inverse { group, factor, epsilon }, Form::Linear(sum)) => {
                (sum.constant == 0.0).then_some(Form::Normal { sum: sum.times(factor, 0.0), group, epsilon })
            }
            _ => None,
        }
    }

    pub(super) fn inverse(self) -> Option<Form> {
        match self {
            Form::Deviation { group, factor, epsilon } if factor > 0.0 => {
                Some(Form::Inverse { group, factor: 1.0 / factor, epsilon })
            }
            _ => None,
        }
    }

    pub(super) fn root(self) -> Option<Form> {
        match self {
            Form::Variance { group, factor, constant } if factor > 0.0 && constant >= 0.0 => {
                Some(Form::Deviation { group, factor: factor.sqrt(), epsilon: constant / factor })
            }
            _ => None,
        }
    }
}
