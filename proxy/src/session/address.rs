//! `KEYSTILE ADDRESS host port`, by which a tunnel tells where its clients connect to. Of us, not of any server:
//! it needs no right, and changes nothing but what a cluster-aware client is told.

use keystile_model::database::Endpoint;
use keystile_resp::command::CommandId;
use keystile_resp::encode;
use keystile_resp::request::Request;

/// Longest host name (RFC 1035).
const LONGEST_HOST: usize = 255;

/// What such a request tells; the answer where it makes no sense. `None` for any other request.
pub(crate) fn told(
    id: Option<CommandId>,
    request: &Request,
    buf: &[u8],
) -> Option<Result<Endpoint, Vec<u8>>> {
    if id.is_some() || !request.name(buf)?.eq_ignore_ascii_case(b"keystile") {
        return None;
    }
    Some(read(request, buf).ok_or_else(|| {
        let mut words = Vec::new();
        encode::error(&mut words, "ERR keystile:", "the form is KEYSTILE ADDRESS <host> <port>");
        words
    }))
}

fn read(request: &Request, buf: &[u8]) -> Option<Endpoint> {
    let text = |index| String::from_utf8(request.arg(buf, index)?.into_owned()).ok();
    if request.argc != 4 || !text(1)?.eq_ignore_ascii_case("address") {
        return None;
    }
    let plain = |host: &str| {
        !host.is_empty()
            && host.len() <= LONGEST_HOST
            && host.bytes().all(|byte| byte.is_ascii_alphanumeric() || b".-_:".contains(&byte))
    };
    let host = text(2).filter(|host| plain(host))?;
    let port = text(3)?.parse().ok().filter(|port| *port != 0)?;
    Some(Endpoint { host, port })
}

#[cfg(test)]
mod tests {
    use keystile_resp::command::find;
    use keystile_resp::request::{Limits, Scanner, Step};

    use super::*;

    fn read(line: &str) -> Option<Result<Endpoint, Vec<u8>>> {
        let Ok(Step::Request(request)) = Scanner::new(Limits::SIGNED_IN).scan(line.as_bytes()) else {
            panic!("no request")
        };
        told(request.name(line.as_bytes()).and_then(|name| find(&name)), &request, line.as_bytes())
    }

    #[test]
    fn an_address_is_told() {
        let told = read("keystile address localhost 6380\r\n").unwrap().unwrap();
        assert_eq!((told.host.as_str(), told.port), ("localhost", 6380));
        for nonsense in [
            "KEYSTILE",
            "KEYSTILE ADDRESS a",
            "KEYSTILE ADDRESS a 0",
            "KEYSTILE ADDRESS a b",
            "KEYSTILE X a 1",
            "KEYSTILE ADDRESS \"a b\" 1",
        ] {
            assert!(read(&format!("{nonsense}\r\n")).unwrap().is_err(), "{nonsense}");
        }
        assert!(read("GET keystile\r\n").is_none() && read("JSON.GET a\r\n").is_none());
    }
}
