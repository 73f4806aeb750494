//! Command-line arguments for the fields of a key. Each argument is derived from the field's entry
//! in [`FIELDS`].

use std::collections::BTreeMap;

use clap::{Arg, ArgAction, ArgMatches, Args, Command, FromArgMatches};

use super::values::label;
use crate::config::network::{NetworkFault, network_of};
use crate::config::{Priority, is_group_name, parse_budget, parse_output_cap};
use crate::keys::KeyRecord;
use crate::keys::field::{Field, Form, SetBy, Value};
use crate::keys::fields::FIELDS;
use crate::model::ModelPatterns;

/// The fields of a key that are given on the command line, with their values.
#[derive(Debug)]
pub(super) struct FieldArguments {
    given: Vec<(&'static Field, Value)>,
}

impl FieldArguments {
    /// Whether the field `name` is given.
    pub(super) fn has(&self, name: &str) -> bool {
        self.given.iter().any(|(field, _)| field.name == name)
    }

    /// Sets the given fields of `record`.
    pub(super) fn put_on(&self, record: &mut KeyRecord) {
        self.given.iter().for_each(|(field, value)| field.set(record, value.clone()));
    }
}

/// Returns the fields that have an argument, each with the argument's name.
fn with_argument() -> impl Iterator<Item = (&'static Field, &'static str)> {
    FIELDS.iter().filter_map(|field| match field.set_by {
        SetBy::ApiAndArgument(name) => Some((field, name)),
        SetBy::Api | SetBy::Bearward => None,
    })
}

impl Args for FieldArguments {
    fn augment_args(command: Command) -> Command {
        with_argument().fold(command, |command, (field, name)| command.arg(argument(field, name)))
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl FromArgMatches for FieldArguments {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let value = |field: &Field| {
            let values = matches.get_many::<Value>(field.name)?.cloned();
            values.reduce(joined)
        };
        let given = with_argument().filter_map(|(field, _)| Some((field, value(field)?)));
        Ok(FieldArguments { given: given.collect() })
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

fn argument(field: &'static Field, name: &'static str) -> Arg {
    let argument = Arg::new(field.name)
        .long(name)
        .help(format!("{} [default: {}]", field.about, field.default))
        .value_parser(|text: &str| parse(field.form, text));
    match field.form {
        Form::Networks | Form::Words | Form::Models | Form::Permissions => {
            argument.value_name("LIST").value_delimiter(',').action(ArgAction::Append)
        }
        Form::Pairs => argument.value_name("NAME=VALUE").action(ArgAction::Append),
        Form::Budgets => argument.value_name("BUDGET").action(ArgAction::Append),
        Form::Count => argument.value_name("N"),
        Form::OutputCap => argument.value_name("N[/lower]"),
        Form::Priority => argument.value_name("CLASS"),
        _ => argument.value_name("TEXT"),
    }
}

/// Parses one value of an argument. The value of a list field is a list with one item.
fn parse(form: Form, text: &str) -> Result<Value, String> {
    match form {
        Form::Name | Form::Label => label(text).map(Value::Text),
        Form::Group if is_group_name(text) => Ok(Value::Text(text.to_owned())),
        Form::Group => Err("letters, digits or any of `-_.`, as in team-a".to_owned()),
        Form::Count => {
            let count = text.parse().ok().filter(|count| *count > 0);
            count.map(Value::Count).ok_or_else(|| "a whole number of at least 1 is needed".to_owned())
        }
        Form::Networks => Ok(Value::Networks(vec![network(text)?])),
        Form::Words if text.is_empty() => Err("a name is empty".to_owned()),
        Form::Words => Ok(Value::Words(vec![text.to_owned()])),
        Form::Budgets => match parse_budget(text) {
            Some(budget) => Ok(Value::Budgets(vec![budget])),
            None => Err("as in tokens=5M/month, or requests=1000/day@Europe/Berlin".to_owned()),
        },
        Form::Models => {
            let patterns = ModelPatterns::new(vec![text.to_owned()]);
            patterns.map(Value::Models).map_err(|(_, fault)| fault.to_string())
        }
        Form::OutputCap => {
            parse_output_cap(text).map(Value::OutputCap).ok_or_else(|| "as in 4096, or 4096/lower".to_owned())
        }
        Form::Priority => Priority::named(text)
            .map(Value::Priority)
            .ok_or_else(|| "one of interactive, standard and batch".to_owned()),
        Form::Pairs => match text.split_once('=') {
            Some((name, value)) if !name.is_empty() => {
                Ok(Value::Pairs(BTreeMap::from([(name.to_owned(), value.to_owned())])))
            }
            _ => Err("as in team=payments".to_owned()),
        },
        Form::Instant => {
            text.parse().map(Value::Instant).map_err(|_| "as in 2026-12-01T00:00:00Z".to_owned())
        }
        Form::Flag => text.parse().map(Value::Flag).map_err(|_| "true or false".to_owned()),
        Form::KeyId | Form::Hash | Form::Secrets | Form::Permissions | Form::RateLimits => {
            debug_assert!(false, "a field of the form {form:?} has no argument of this kind");
            Err("not on the command line".to_owned())
        }
    }
}

/// Joins two values of one argument: lists are concatenated; of other values, the last one is used.
fn joined(first: Value, next: Value) -> Value {
    match (first, next) {
        (Value::Networks(first), Value::Networks(next)) => Value::Networks([first, next].concat()),
        (Value::Words(first), Value::Words(next)) => Value::Words([first, next].concat()),
        (Value::Models(first), Value::Models(next)) => Value::Models(first.and(next)),
        // Of two budgets of one unit and period, the last one counts.
        (Value::Budgets(mut first), Value::Budgets(next)) => {
            first.retain(|one| !next.iter().any(|other| (one.unit, one.every) == (other.unit, other.every)));
            Value::Budgets([first, next].concat())
        }
        (Value::Pairs(mut first), Value::Pairs(next)) => {
            first.extend(next);
            Value::Pairs(first)
        }
        (_, last) => last,
    }
}

fn network(text: &str) -> Result<ipnet::IpNet, String> {
    network_of(text).map_err(|fault| match fault {
        NetworkFault::HostBits(right) => format!("host bits are set; {right} is meant?"),
        NetworkFault::Mapped(right) => format!("IPv4 in the form of IPv6 never matches; {right} is meant?"),
        NetworkFault::NoNetwork => "as in 10.0.0.0/8 or 192.0.2.7".to_owned(),
    })
}
