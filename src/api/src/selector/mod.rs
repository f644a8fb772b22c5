//! Label selectors (`app=web,tier in (a,b),!old`) and field selectors (`spec.nodeName=n1`).

use std::{collections::BTreeMap, fmt};

use k8s_openapi::apimachinery::pkg::apis::meta::v1 as meta;
use serde_json::{Map, Value};

use crate::{
    field::{self, Bad, FieldCause, Path},
    names,
    quote::Quoted,
};

mod fields;
mod parse;

pub use fields::FieldSelector;

/// A selector that does not parse, in Kubernetes' words.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct SelectorError(pub(crate) String);

/// Labels of an object, in whatever form they are at hand.
pub trait Labels {
    /// The value of a label; `None` if the object does not have it.
    fn label(&self, key: &str) -> Option<&str>;
}

impl Labels for BTreeMap<String, String> {
    fn label(&self, key: &str) -> Option<&str> {
        self.get(key).map(String::as_str)
    }
}

/// `metadata.labels` of an object in JSON.
impl Labels for Map<String, Value> {
    fn label(&self, key: &str) -> Option<&str> {
        self.get(key).and_then(Value::as_str)
    }
}

impl<L: Labels> Labels for Option<L> {
    fn label(&self, key: &str) -> Option<&str> {
        self.as_ref().and_then(|labels| labels.label(key))
    }
}

impl<L: Labels + ?Sized> Labels for &L {
    fn label(&self, key: &str) -> Option<&str> {
        (**self).label(key)
    }
}

/// How a label relates to the values of a requirement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operator {
    /// Is there and one of the values; also `=` and `==`.
    In,
    /// Is not there, or none of the values; also `!=`.
    NotIn,
    /// Is there.
    Exists,
    /// Is not there.
    DoesNotExist,
    /// Is a whole number greater than the value.
    GreaterThan,
    /// Is a whole number less than the value.
    LessThan,
}

/// One condition of a [`LabelSelector`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Requirement {
    /// The label.
    pub key: String,
    /// The condition.
    pub operator: Operator,
    /// What the label is held against, sorted and without repetition.
    pub values: Vec<String>,
}

impl Requirement {
    /// Checks key and values.
    fn new(key: String, operator: Operator, mut values: Vec<String>) -> Result<Requirement, SelectorError> {
        let mut wrong: Vec<FieldCause> = Vec::new();
        let key_wrong = names::qualified_name(&key);
        if !key_wrong.is_empty() {
            wrong.push(field::invalid(&Path::new("key"), &key, &key_wrong.join("; ")));
        }
        let path = Path::new("values");
        // A list of strings as Go's %#v prints it.
        let list = match values.as_slice() {
            [] => "[]string(nil)".to_owned(),
            some => {
                let some = some.iter().map(|value| Quoted(value).to_string()).collect::<Vec<_>>();
                format!("[]string{{{}}}", some.join(", "))
            }
        };
        match operator {
            Operator::In | Operator::NotIn if values.is_empty() => {
                let why = "for 'in', 'notin' operators, values set can't be empty";
                wrong.push(field::invalid(&path, Bad::Plain(&list), why));
            }
            Operator::Exists | Operator::DoesNotExist if !values.is_empty() => {
                let why = "values set must be empty for exists and does not exist";
                wrong.push(field::invalid(&path, Bad::Plain(&list), why));
            }
            Operator::GreaterThan | Operator::LessThan => {
                if values.len() != 1 {
                    let why = "for 'Gt', 'Lt' operators, exactly one value is required";
                    wrong.push(field::invalid(&path, Bad::Plain(&list), why));
                }
                for (index, value) in values.iter().enumerate() {
                    if value.parse::<i64>().is_err() {
                        let why = "for 'Gt', 'Lt' operators, the value must be an integer";
                        wrong.push(field::invalid(&path.index(index), value, why));
                    }
                }
            }
            _ => {}
        }
        for (index, value) in values.iter().enumerate() {
            let value_wrong = names::label_value(value);
            if !value_wrong.is_empty() {
                let path = path.index(index);
                wrong.push(field::invalid(&path.key(&key), value, &value_wrong.join("; ")));
            }
        }
        match wrong.as_slice() {
            [] => {
                values.sort_unstable();
                values.dedup();
                Ok(Requirement { key, operator, values })
            }
            [one] => Err(SelectorError(format!("{}: {}", one.field, one.message))),
            many => {
                let texts = many.iter().map(|cause| format!("{}: {}", cause.field, cause.message));
                Err(SelectorError(format!("[{}]", texts.collect::<Vec<_>>().join(", "))))
            }
        }
    }

    fn matches(&self, labels: &dyn Labels) -> bool {
        let label = labels.label(&self.key);
        let listed = |label: &str| self.values.iter().any(|value| value == label);
        match self.operator {
            Operator::In => label.is_some_and(listed),
            Operator::NotIn => !label.is_some_and(listed),
            Operator::Exists => label.is_some(),
            Operator::DoesNotExist => label.is_none(),
            Operator::GreaterThan | Operator::LessThan => {
                let number = |text: &str| text.parse::<i64>().ok();
                let (Some(label), Some(value)) =
                    (label.and_then(number), self.values.first().and_then(|value| number(value)))
                else {
                    return false;
                };
                if self.operator == Operator::GreaterThan { label > value } else { label < value }
            }
        }
    }
}

impl fmt::Display for Requirement {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (key, values) = (&self.key, self.values.join(","));
        match self.operator {
            Operator::In if self.values.len() == 1 => write!(out, "{key}={values}"),
            Operator::NotIn if self.values.len() == 1 => write!(out, "{key}!={values}"),
            Operator::In => write!(out, "{key} in ({values})"),
            Operator::NotIn => write!(out, "{key} notin ({values})"),
            Operator::Exists => write!(out, "{key}"),
            Operator::DoesNotExist => write!(out, "!{key}"),
            Operator::GreaterThan => write!(out, "{key}>{values}"),
            Operator::LessThan => write!(out, "{key}<{values}"),
        }
    }
}

/// A label selector: all of its requirements must hold. Without requirements it selects everything.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LabelSelector {
    requirements: Vec<Requirement>,
}

impl LabelSelector {
    /// Parses the text form, e.g. `a=b,c in (d,e),!f`.
    ///
    /// # Errors
    /// Kubernetes' words, to be put after `unable to parse requirement: ` where Kubernetes does so.
    pub fn parse(text: &str) -> Result<LabelSelector, SelectorError> {
        parse::parse(text).map(LabelSelector::sorted)
    }

    /// From the selector of an object. One without requirements selects everything; an object without
    /// a selector (nothing is selected) is the caller's case.
    ///
    /// # Errors
    /// An operator, key or value is not valid.
    pub fn from_api(selector: &meta::LabelSelector) -> Result<LabelSelector, SelectorError> {
        let mut requirements = Vec::new();
        for (key, value) in selector.match_labels.iter().flatten() {
            requirements.push(Requirement::new(key.clone(), Operator::In, vec![value.clone()])?);
        }
        for expression in selector.match_expressions.iter().flatten() {
            let operator = match expression.operator.as_str() {
                "In" => Operator::In,
                "NotIn" => Operator::NotIn,
                "Exists" => Operator::Exists,
                "DoesNotExist" => Operator::DoesNotExist,
                other => {
                    return Err(SelectorError(format!(
                        "{} is not a valid label selector operator",
                        Quoted(other)
                    )));
                }
            };
            let values = expression.values.clone().unwrap_or_default();
            requirements.push(Requirement::new(expression.key.clone(), operator, values)?);
        }
        Ok(LabelSelector::sorted(requirements))
    }

    /// From the selector of an object in JSON: a LabelSelector.
    ///
    /// # Errors
    /// As [`LabelSelector::from_api`], or the JSON is no LabelSelector.
    pub fn from_value(selector: &Value) -> Result<LabelSelector, SelectorError> {
        let selector: meta::LabelSelector =
            serde::Deserialize::deserialize(selector).map_err(|error| SelectorError(error.to_string()))?;
        LabelSelector::from_api(&selector)
    }

    /// All of these labels (services, replication controllers). Nothing is checked.
    pub fn from_map(labels: &BTreeMap<String, String>) -> LabelSelector {
        let requirements = labels.iter().map(|(key, value)| Requirement {
            key: key.clone(),
            operator: Operator::In,
            values: vec![value.clone()],
        });
        LabelSelector { requirements: requirements.collect() }
    }

    /// True if it restricts nothing.
    pub fn is_empty(&self) -> bool {
        self.requirements.is_empty()
    }

    /// True if the labels satisfy every requirement.
    pub fn matches(&self, labels: &dyn Labels) -> bool {
        self.requirements.iter().all(|requirement| requirement.matches(labels))
    }

    /// The requirements, by key.
    pub fn requirements(&self) -> &[Requirement] {
        &self.requirements
    }

    fn sorted(mut requirements: Vec<Requirement>) -> LabelSelector {
        requirements.sort_by(|a, b| a.key.cmp(&b.key));
        LabelSelector { requirements }
    }
}

impl fmt::Display for LabelSelector {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, requirement) in self.requirements.iter().enumerate() {
            let comma = if index == 0 { "" } else { "," };
            write!(out, "{comma}{requirement}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
