//! `explain`: what a field of a manifest means, from the schemas.

use anyhow::Result;
use clap::Args;
use serde_json::Value;

use super::printer::Printer;
use super::text::paragraph;
use super::{Context, ExitStatus, target, wrong};
use crate::api::API_VERSION;
use crate::api::object::Kind;
use crate::manifest::{closest, schemas, status_schema};

const BOLD: &str = "1";
const DIM: &str = "2";

#[derive(Debug, Args)]
pub(super) struct ExplainArgs {
    /// The kind, and the way to the field: job.spec.checkpoint
    #[arg(value_name = "KIND[.FIELD...]")]
    field: String,
    /// The names and types of all fields below it
    #[arg(long)]
    recursive: bool,
}

pub(super) fn run(context: &Context, args: &ExplainArgs) -> Result<ExitStatus> {
    let mut steps = args.field.split('.').map(|step| step.trim_end_matches("[]"));
    let kind = target::kind(steps.next().unwrap_or_default())?;
    let file = format!("{}.json", kind.singular());
    let schemas = schemas();
    let schema = schemas.into_iter().find(|(name, _)| *name == file).map(|(_, schema)| schema);
    let mut schema = schema.ok_or_else(|| wrong(format!("{kind} has no schema")))?;
    schema["properties"]["status"] = status_schema(kind);
    let mut field = Field { name: kind.name().to_owned(), schema: &schema, required: true };
    let mut path = Vec::new();
    for step in steps.filter(|step| !step.is_empty()) {
        field = below(&field, step, &path)?;
        path.push(step.to_owned());
    }
    let page = Page { printer: context.printer };
    context.printer.data(&page.explain(kind, &path, &field, args.recursive));
    Ok(ExitStatus::Success)
}

/// A field, and what its schema says.
struct Field<'a> {
    name: String,
    schema: &'a Value,
    required: bool,
}

/// The field of a name in another one.
fn below<'a>(field: &Field<'a>, name: &str, path: &[String]) -> Result<Field<'a>> {
    let all = fields(field.schema);
    let names: Vec<String> = all.iter().map(|field| field.name.clone()).collect();
    if let Some(found) = all.into_iter().find(|known| known.name.eq_ignore_ascii_case(name)) {
        return Ok(found);
    }
    let place = if path.is_empty() { "the top".to_owned() } else { path.join(".") };
    let meant = closest(name, names.iter().map(String::as_str));
    Err(wrong(match meant {
        _ if names.is_empty() => format!("{place} has no fields that are known by name"),
        Some(meant) => format!("there is no field {name:?} at {place}; did you mean {meant}?"),
        None => format!("there is no field {name:?} at {place}; there are {}", names.join(", ")),
    }))
}

/// The fields of an object, or of the objects of a list; the needed ones first.
fn fields(schema: &Value) -> Vec<Field<'_>> {
    let inner = inner(schema);
    let required: Vec<&str> =
        inner["required"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    let of = |schema: &'_ Value| -> Vec<(String, bool)> {
        let names = schema["properties"].as_object().into_iter().flatten();
        names.map(|(name, _)| (name.clone(), required.contains(&name.as_str()))).collect()
    };
    let mut found: Vec<Field<'_>> = of(inner)
        .into_iter()
        .map(|(name, required)| Field { schema: &inner["properties"][name.as_str()], name, required })
        .collect();
    // One of several objects, such as a cluster's provider.
    for choice in choices(inner) {
        for (name, property) in choice["properties"].as_object().into_iter().flatten() {
            if !found.iter().any(|known| known.name == *name) {
                found.push(Field { name: name.clone(), schema: property, required: false });
            }
        }
    }
    found.sort_by_key(|field| !field.required);
    found
}

fn choices(schema: &Value) -> impl Iterator<Item = &Value> {
    ["oneOf", "anyOf"].into_iter().filter_map(|word| schema[word].as_array()).flatten()
}

/// What a list is of; anything else itself.
fn inner(schema: &Value) -> &Value {
    match &schema["items"] {
        Value::Null => schema,
        items => inner(items),
    }
}

/// What a value may be, in a word.
fn type_of(schema: &Value) -> String {
    if schema["items"].is_object() {
        return format!("[]{}", type_of(&schema["items"]));
    }
    if let Some(format) = schema["format"].as_str() {
        return format.to_owned();
    }
    let consts: Vec<&str> = choices(schema).filter_map(|choice| choice["const"].as_str()).collect();
    if !consts.is_empty() {
        return consts.join("|");
    }
    if let Some(values) = schema["enum"].as_array() {
        return values.iter().filter_map(Value::as_str).collect::<Vec<_>>().join("|");
    }
    if let Some(only) = schema["const"].as_str() {
        return only.to_owned();
    }
    if schema["additionalProperties"]["type"].is_string() {
        return format!("map[string]{}", type_of(&schema["additionalProperties"]));
    }
    match &schema["type"] {
        Value::String(name) => name.clone(),
        Value::Array(names) => {
            let names = names.iter().filter_map(Value::as_str).filter(|name| *name != "null");
            names.collect::<Vec<_>>().join("|")
        }
        _ => "object".to_owned(),
    }
}

struct Page {
    printer: Printer,
}

impl Page {
    fn explain(&self, kind: Kind, path: &[String], field: &Field<'_>, recursive: bool) -> String {
        let mut text = format!("KIND:     {kind}\nVERSION:  {API_VERSION}\n");
        if !path.is_empty() {
            text.push_str(&format!(
                "FIELD:    {} <{}>{}\n",
                path.join("."),
                type_of(field.schema),
                self.notes(field)
            ));
        }
        let description = field.schema["description"].as_str().unwrap_or("Nothing more is said of it.");
        text.push_str(&format!("\n{}\n", self.paragraph("  ", description)));
        let choices: Vec<&Value> =
            choices(inner(field.schema)).filter(|choice| choice["const"].is_string()).collect();
        for choice in &choices {
            let title = format!("  {}  ", choice["const"].as_str().unwrap_or_default());
            text.push_str(&self.paragraph(&title, choice["description"].as_str().unwrap_or_default()));
        }
        let fields = fields(field.schema);
        if fields.is_empty() {
            return text;
        }
        text.push_str(&format!("{}\n", self.printer.tint(BOLD, "FIELDS")));
        if recursive {
            self.tree(&fields, 1, &mut text);
            return text;
        }
        for field in &fields {
            let name = self.printer.tint(BOLD, &field.name);
            text.push_str(&format!("  {name} <{}>{}\n", type_of(field.schema), self.notes(field)));
            if let Some(description) = field.schema["description"].as_str() {
                text.push_str(&self.paragraph("      ", description));
            }
        }
        text
    }

    fn tree(&self, fields: &[Field<'_>], depth: usize, text: &mut String) {
        for field in fields {
            let margin = "  ".repeat(depth);
            text.push_str(&format!(
                "{margin}{} <{}>{}\n",
                field.name,
                type_of(field.schema),
                self.notes(field)
            ));
            self.tree(&self::fields(field.schema), depth + 1, text);
        }
    }

    /// Whether it is needed, or what it is otherwise.
    fn notes(&self, field: &Field<'_>) -> String {
        let default = match &field.schema["default"] {
            Value::Null | Value::Object(_) | Value::Array(_) => None,
            Value::String(text) => Some(text.clone()),
            other => Some(other.to_string()),
        };
        let note = match default {
            Some(default) => format!("default {default}"),
            None if field.required => "required".to_owned(),
            None => return String::new(),
        };
        format!("  {}", self.printer.tint(DIM, &note))
    }

    fn paragraph(&self, title: &str, text: &str) -> String {
        paragraph(title, text, self.printer.data_width())
    }
}
