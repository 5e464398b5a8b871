//! The wire forms that are shared by all services: requests as read, answers, errors, XML.
//!
//! Owns which protocol a request speaks and how an error looks in it. It decides nothing about what
//! a call means.

use std::collections::BTreeMap;

use bytes::Bytes;
use http::{HeaderMap, Method, StatusCode};
use http_body_util::Full;
use percent_encoding::percent_decode_str;

/// An answer, whole.
pub(crate) type Response = http::Response<Full<Bytes>>;

/// A request, read whole.
#[derive(Debug, Clone)]
pub(crate) struct Request {
    /// The method.
    pub(crate) method: Method,
    /// The path, still encoded.
    pub(crate) path: String,
    /// The query, still encoded, without `?`.
    pub(crate) query: String,
    /// The headers as they came.
    pub(crate) headers: HeaderMap,
    /// The headers with lower-case names and joined values, as signatures see them.
    pub(crate) flat: BTreeMap<String, String>,
    /// The body.
    pub(crate) body: Bytes,
}

/// How a service speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Protocol {
    /// Form in, XML out.
    Query,
    /// JSON with `X-Amz-Target`.
    Json,
    /// JSON by path.
    RestJson,
    /// S3.
    RestXml,
}

/// What a call is, as far as routing, faults and the recorder need it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Call {
    /// The service, spelled as in fault operations.
    pub(crate) service: String,
    /// The operation.
    pub(crate) operation: String,
    /// The table, or the most telling id or ARN of the request.
    pub(crate) resource: String,
    /// The protocol.
    pub(crate) protocol: Protocol,
}

/// An error on its way to the client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ApiError {
    /// The HTTP status.
    pub(crate) status: u16,
    /// The code on the wire.
    pub(crate) code: String,
    /// The words.
    pub(crate) message: String,
}

impl ApiError {
    /// An error of the caller's.
    pub(crate) fn new(status: u16, code: &str, message: impl Into<String>) -> Self {
        Self { status, code: code.into(), message: message.into() }
    }

    /// The answer in the given protocol.
    #[must_use]
    pub(crate) fn response(&self, protocol: Protocol) -> Response {
        let request_id = uuid::Uuid::new_v4().to_string();
        let kind = if self.status < 500 { "Sender" } else { "Receiver" };
        let (content_type, body) = match protocol {
            Protocol::Query => {
                let inner = Xml::node(
                    "Error",
                    vec![
                        Xml::text("Type", kind),
                        Xml::text("Code", &self.code),
                        Xml::text("Message", &self.message),
                    ],
                );
                (
                    "text/xml",
                    Xml::node("ErrorResponse", vec![inner, Xml::text("RequestId", &request_id)]).render(),
                )
            }
            Protocol::RestXml => {
                let fields = vec![
                    Xml::text("Code", &self.code),
                    Xml::text("Message", &self.message),
                    Xml::text("RequestId", &request_id),
                ];
                ("application/xml", Xml::node("Error", fields).render())
            }
            Protocol::Json => (
                "application/x-amz-json-1.1",
                serde_json::json!({"__type": self.code, "message": self.message}).to_string(),
            ),
            Protocol::RestJson => {
                ("application/json", serde_json::json!({"message": self.message}).to_string())
            }
        };
        let mut response = answer(self.status, content_type, body);
        if matches!(protocol, Protocol::Json | Protocol::RestJson)
            && let Ok(code) = self.code.parse()
        {
            response.headers_mut().insert("x-amzn-errortype", code);
        }
        response
    }
}

/// An answer with a body.
pub(crate) fn answer(status: u16, content_type: &'static str, body: impl Into<Bytes>) -> Response {
    let mut response = http::Response::new(Full::new(body.into()));
    *response.status_mut() = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    response.headers_mut().insert("content-type", http::HeaderValue::from_static(content_type));
    if let Ok(id) = uuid::Uuid::new_v4().to_string().parse() {
        response.headers_mut().insert("x-amzn-requestid", id);
    }
    response
}

/// A JSON answer of status 200.
#[must_use]
pub(crate) fn json_answer(value: &serde_json::Value) -> Response {
    answer(200, "application/x-amz-json-1.1", value.to_string())
}

/// Says what the request calls. `service` is the one that the signature's scope names.
#[must_use]
pub(crate) fn call_of(request: &Request, service: &str) -> Call {
    if let Some(target) = request.flat.get("x-amz-target") {
        let operation = target.rsplit('.').next().unwrap_or(target).to_owned();
        let body = serde_json::from_slice(&request.body).unwrap_or_default();
        return Call {
            service: service.into(),
            operation,
            resource: json_resource(service, &body),
            protocol: Protocol::Json,
        };
    }
    match service {
        "lambda" => rest_call(request, service, lambda_operation(request)),
        "account" => rest_call(request, service, account_operation(request)),
        "s3" => Call {
            protocol: Protocol::RestXml,
            ..rest_call(request, service, (request.method.to_string(), request.path.clone()))
        },
        "scheduler" | "execute-api" | "apigateway" => {
            rest_call(request, service, (request.method.to_string(), request.path.clone()))
        }
        _ => {
            let form = Form::of(request);
            Call {
                service: service.into(),
                operation: form.text("Action").unwrap_or_default().to_owned(),
                resource: form_resource(&form),
                protocol: Protocol::Query,
            }
        }
    }
}

fn rest_call(_: &Request, service: &str, (operation, resource): (String, String)) -> Call {
    Call { service: service.into(), operation, resource, protocol: Protocol::RestJson }
}

fn lambda_operation(request: &Request) -> (String, String) {
    let decoded = decode(&request.path);
    let name =
        decoded.strip_prefix("/2015-03-31/functions/").and_then(|rest| rest.strip_suffix("/invocations"));
    match name {
        Some(name) if request.method == Method::POST => ("Invoke".into(), name.into()),
        _ => (request.method.to_string(), decoded),
    }
}

fn account_operation(request: &Request) -> (String, String) {
    let body: serde_json::Value = serde_json::from_slice(&request.body).unwrap_or_default();
    let resource = body
        .get("RegionName")
        .or_else(|| body.get("AccountId"))
        .and_then(serde_json::Value::as_str)
        .unwrap_or_default()
        .to_owned();
    let operation = match request.path.as_str() {
        "/listRegions" => "ListRegions",
        "/getRegionOptStatus" => "GetRegionOptStatus",
        other => other,
    };
    (operation.to_owned(), resource)
}

fn json_resource(service: &str, body: &serde_json::Value) -> String {
    if service == "dynamodb" {
        return table_of(body).unwrap_or_default();
    }
    let names = [
        "SecretId",
        "Name",
        "KeyId",
        "ResourceArn",
        "UserName",
        "ClusterName",
        "ACLName",
        "DeliveryStreamName",
        "SubnetGroupName",
        "TableName",
    ];
    let one = names.iter().find_map(|name| body.get(name).and_then(serde_json::Value::as_str));
    let first =
        || body.get("ResourceARNList").and_then(|list| list.get(0)).and_then(serde_json::Value::as_str);
    one.or_else(first).unwrap_or_default().to_owned()
}

/// The first table that a DynamoDB request names, also inside transactions and batches.
fn table_of(body: &serde_json::Value) -> Option<String> {
    if let Some(name) = body.get("TableName").and_then(serde_json::Value::as_str) {
        return Some(name.rsplit('/').next().unwrap_or(name).to_owned());
    }
    if let Some(items) = body.get("TransactItems").and_then(serde_json::Value::as_array) {
        return items
            .iter()
            .filter_map(serde_json::Value::as_object)
            .flat_map(|item| item.values())
            .find_map(table_of);
    }
    body.get("RequestItems")?.as_object()?.keys().next().cloned()
}

fn form_resource(form: &Form) -> String {
    let names = [
        "UserId",
        "ReplicationGroupId",
        "ServerlessCacheName",
        "CacheClusterId",
        "UserGroupId",
        "ResourceName",
        "RoleArn",
        "CacheSubnetGroupName",
        "UserName",
        "RoleName",
    ];
    names.iter().find_map(|name| form.text(name)).unwrap_or_default().to_owned()
}

/// A form, or the query of a GET: one value a name.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Form(BTreeMap<String, String>);

impl Form {
    /// The form of a request: its query, and its body where that is a form.
    #[must_use]
    pub(crate) fn of(request: &Request) -> Self {
        let body = String::from_utf8_lossy(&request.body);
        let form = if request.method == Method::POST { body.as_ref() } else { "" };
        let pairs = request.query.split('&').chain(form.split('&')).filter(|pair| !pair.is_empty());
        Self(
            pairs
                .map(|pair| {
                    let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
                    (decode(&name.replace('+', " ")), decode(&value.replace('+', " ")))
                })
                .collect(),
        )
    }

    /// The value of a name that is given and not empty.
    #[must_use]
    pub(crate) fn text(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str).filter(|value| !value.is_empty())
    }

    /// Whether the form has this name at all.
    #[must_use]
    pub(crate) fn has(&self, name: &str) -> bool {
        self.0.contains_key(name)
    }

    /// `Name.member.1`, `Name.member.2` and so on, until one is missing.
    #[must_use]
    pub(crate) fn list(&self, name: &str) -> Vec<String> {
        (1..).map_while(|n| self.0.get(&format!("{name}.member.{n}")).cloned()).collect()
    }

    /// `Tags.Tag.N.Key` and `.Value`, or the same with `member`.
    #[must_use]
    pub(crate) fn tags(&self) -> Vec<(String, String)> {
        let at = |n: usize, part: &str| {
            ["Tags.Tag", "Tags.member"]
                .iter()
                .find_map(|list| self.0.get(&format!("{list}.{n}.{part}")).cloned())
        };
        (1..).map_while(|n| at(n, "Key").map(|key| (key, at(n, "Value").unwrap_or_default()))).collect()
    }
}

/// Percent-decodes.
#[must_use]
pub(crate) fn decode(text: &str) -> String {
    percent_decode_str(text).decode_utf8_lossy().into_owned()
}

/// An element of an XML answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Xml {
    name: String,
    text: Option<String>,
    children: Vec<Xml>,
}

impl Xml {
    /// An element with children.
    #[must_use]
    pub(crate) fn node(name: &str, children: Vec<Self>) -> Self {
        Self { name: name.into(), text: None, children }
    }

    /// An element with text.
    #[must_use]
    pub(crate) fn text(name: &str, text: impl ToString) -> Self {
        Self { name: name.into(), text: Some(text.to_string()), children: Vec::new() }
    }

    /// A list of texts, each in an element `item`.
    #[must_use]
    pub(crate) fn texts(name: &str, item: &str, texts: &[String]) -> Self {
        Self::node(name, texts.iter().map(|text| Self::text(item, text)).collect())
    }

    /// The document's text.
    #[must_use]
    pub(crate) fn render(&self) -> String {
        let mut out = String::new();
        self.write(&mut out);
        out
    }

    fn write(&self, out: &mut String) {
        out.push_str(&format!("<{}>", self.name));
        for c in self.text.iter().flat_map(|text| text.chars()) {
            match c {
                '<' => out.push_str("&lt;"),
                '>' => out.push_str("&gt;"),
                '&' => out.push_str("&amp;"),
                c => out.push(c),
            }
        }
        self.children.iter().for_each(|child| child.write(out));
        // The name alone closes it: attributes stay in the opening tag.
        let name = self.name.split(' ').next().unwrap_or_default();
        out.push_str(&format!("</{name}>"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_table_of_a_transaction_is_found_inside_its_items() {
        let body = json!({"TransactItems": [{"Put": {"TableName": "policy"}}, {"Update": {"TableName": "runtime"}}]});
        assert_eq!(table_of(&body).as_deref(), Some("policy"));
        assert_eq!(table_of(&json!({"RequestItems": {"runtime": []}})).as_deref(), Some("runtime"));
        assert_eq!(table_of(&json!({})), None);
    }

    #[test]
    fn xml_text_is_escaped() {
        assert_eq!(
            Xml::node("a xmlns=\"x\"", vec![Xml::text("b", "1<2&3")]).render(),
            "<a xmlns=\"x\"><b>1&lt;2&amp;3</b></a>"
        );
    }
}
