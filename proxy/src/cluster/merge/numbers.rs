//! Integers: alone, place by place, by name, and by the names of `MEMORY STATS`.

use keystile_resp::encode;

use super::{Answer, Failure, Merged, header, header_like, lists};
use crate::cluster::value::{Items, Value};

/// Integers by `join`; arrays of them place by place.
pub(super) fn merge(answers: &[Answer<'_>], join: fn(i64, i64) -> i64) -> Merged {
    let values = answers.iter().map(|answer| Value::read(answer.reply).ok_or(Failure::Unlike));
    let values: Vec<Value<'_>> = values.collect::<Result<_, _>>()?;
    let mut out = Vec::new();
    if let Some(Value::List(_)) = values.first() {
        let rows =
            lists(answers)?.into_iter().map(integers).collect::<Option<Vec<_>>>().ok_or(Failure::Unlike)?;
        let mut rows = rows.into_iter();
        let mut joined = rows.next().unwrap_or_default();
        for row in rows {
            if row.len() != joined.len() {
                return Err(Failure::Unlike);
            }
            joined.iter_mut().zip(row).for_each(|(sum, value)| *sum = join(*sum, value));
        }
        header_like(&mut out, answers, joined.len());
        joined.iter().for_each(|number| encode::integer(&mut out, *number));
        return Ok(out);
    }
    let numbers =
        values.iter().map(|value| if let Value::Integer(number) = value { Some(*number) } else { None });
    let numbers = numbers.collect::<Option<Vec<_>>>().ok_or(Failure::Unlike)?;
    encode::integer(&mut out, numbers.into_iter().reduce(join).ok_or(Failure::Unlike)?);
    Ok(out)
}

fn integers(items: Items<'_>) -> Option<Vec<i64>> {
    items.map(|item| Value::read(item)?.integer()).collect()
}

/// Names and counts in turn: the counts of each name summed, names in the order in which they come.
pub(super) fn counts(answers: &[Answer<'_>]) -> Merged {
    let mut sums: Vec<(&[u8], i64)> = Vec::new();
    for mut items in lists(answers)? {
        let mut place = 0;
        while !items.is_empty() {
            let name = items.next().ok_or(Failure::Unlike)?;
            let count = items.next_value().and_then(|value| value.integer()).ok_or(Failure::Unlike)?;
            // Nodes are asked the same names in the same order; so a name is looked for where it should be.
            match sums.get_mut(place) {
                Some((known, sum)) if *known == name => *sum = sum.saturating_add(count),
                None => sums.push((name, count)),
                Some(_) => return Err(Failure::Unlike),
            }
            place += 1;
        }
    }
    let mut out = Vec::new();
    header_like(&mut out, answers, sums.len() * 2);
    for (name, sum) in sums {
        out.extend_from_slice(name);
        encode::integer(&mut out, sum);
    }
    Ok(out)
}

/// `MEMORY STATS`: integers of one name summed, also one level deeper; ratios and percentages are the first
/// node's, and what is a mean is made from the sums.
pub(super) fn memory_stats(answers: &[Answer<'_>]) -> Merged {
    let mut nodes = lists(answers)?.into_iter();
    let mut fields = read_fields(nodes.next().ok_or(Failure::Unlike)?)?;
    for node in nodes {
        for field in read_fields(node)? {
            match fields.iter_mut().find(|known| known.name == field.name) {
                Some(known) => known.add(&field),
                None => fields.push(field),
            }
        }
    }
    let sum = |name: &[u8]| match fields.iter().find(|field| field.name == name).map(|field| &field.content) {
        Some(Content::Sum(sum)) => *sum,
        _ => 0,
    };
    let in_use = sum(b"total.allocated").saturating_sub(sum(b"startup.allocated"));
    let mean = in_use.checked_div(sum(b"keys.count")).unwrap_or(0);
    let mut out = Vec::new();
    header_like(&mut out, answers, fields.len() * 2);
    for field in &fields {
        encode::bulk(&mut out, field.name);
        match &field.content {
            Content::Sum(_) if field.name == b"keys.bytes-per-key" => encode::integer(&mut out, mean),
            Content::Sum(sum) => encode::integer(&mut out, *sum),
            Content::Raw(raw) => out.extend_from_slice(raw),
            Content::Inner { like, fields } => {
                header(&mut out, like, fields.len() * 2);
                for (name, sum) in fields {
                    encode::bulk(&mut out, name);
                    encode::integer(&mut out, *sum);
                }
            }
        }
    }
    Ok(out)
}

struct Field<'a> {
    name: &'a [u8],
    content: Content<'a>,
}

enum Content<'a> {
    Sum(i64),
    Inner { like: &'a [u8], fields: Vec<(&'a [u8], i64)> },
    Raw(&'a [u8]),
}

impl<'a> Field<'a> {
    fn add(&mut self, other: &Field<'a>) {
        match (&mut self.content, &other.content) {
            (Content::Sum(sum), Content::Sum(more)) => *sum = sum.saturating_add(*more),
            (Content::Inner { fields, .. }, Content::Inner { fields: more, .. }) => {
                for (name, number) in more {
                    match fields.iter_mut().find(|(known, _)| known == name) {
                        Some((_, sum)) => *sum = sum.saturating_add(*number),
                        None => fields.push((name, *number)),
                    }
                }
            }
            _ => {}
        }
    }
}

fn read_fields(mut items: Items<'_>) -> Result<Vec<Field<'_>>, Failure> {
    let mut fields = Vec::with_capacity(items.len() / 2);
    while !items.is_empty() {
        let name = items.next_value().and_then(|name| name.text()).ok_or(Failure::Unlike)?;
        let raw = items.next().ok_or(Failure::Unlike)?;
        let content = match Value::read(raw) {
            Some(Value::Integer(number)) => Content::Sum(number),
            Some(Value::List(inner) | Value::Map(inner)) => match named_integers(inner) {
                Some(fields) => Content::Inner { like: raw, fields },
                None => Content::Raw(raw),
            },
            _ => Content::Raw(raw),
        };
        fields.push(Field { name, content });
    }
    Ok(fields)
}

fn named_integers(mut items: Items<'_>) -> Option<Vec<(&[u8], i64)>> {
    let mut fields = Vec::with_capacity(items.len() / 2);
    while !items.is_empty() {
        let (name, value) = items.next_pair()?;
        fields.push((name.text()?, value.integer()?));
    }
    Some(fields)
}
