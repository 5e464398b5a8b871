//! Replies of several nodes to one command: taken as they come, joined once all are there.

use keystile_resp::command::CommandId;
use keystile_resp::reply::{Kind, Step};

use super::ClusterSession;
use super::again::Piece;
use super::fan::{Fan, Join, Progress};
use super::link::LinkId;
use super::order::{Awaiting, Entry};
use crate::audit::redact;
use crate::session::End;

impl ClusterSession {
    /// Takes what is there of the replies to the command at the front. True where something was.
    pub(super) fn deliver_fan(&mut self, out: &mut Vec<u8>) -> Result<bool, End> {
        let mut moved = false;
        for id in self.links.ids() {
            while self.take_part(id, out)? {
                moved = true;
                if self.streaming.is_some() {
                    return Ok(true);
                }
            }
        }
        let number = self.order.first();
        let Some(entry) = self.order.front() else { return Ok(moved) };
        let label = entry.label;
        let Awaiting::Fan(fan) = &mut entry.awaiting else { return Ok(moved) };
        if !fan.is_done() {
            return Ok(moved);
        }
        let fan = std::mem::replace(&mut **fan, Fan::new(Vec::new(), Join::Done, &self.purse));
        self.order.forget_parts(fan.parts().len());
        let Some(reply) = self.join(number, fan) else { return Ok(true) };
        let reply = self.moved_in_vain(&reply).map_or(reply, Vec::from);
        if reply.first() == Some(&b'-') {
            let text = String::from_utf8_lossy(reply.get(1..).unwrap_or_default()).trim_end().to_owned();
            let code = text.split(' ').next().unwrap_or("ERR").to_owned();
            self.journal.failed(label, &code, &redact::error(CommandId::new(label), &text));
        }
        self.journal.reply(label, reply.len());
        self.order.answer(number, reply);
        Ok(true)
    }

    /// Takes a piece of a part's reply from a link. False where there is none.
    fn take_part(&mut self, id: LinkId, out: &mut Vec<u8>) -> Result<bool, End> {
        let number = self.order.first();
        let Some(entry) = self.order.front() else { return Ok(false) };
        let Awaiting::Fan(fan) = &mut entry.awaiting else { return Ok(false) };
        let Some(index) = fan.part_of(id) else { return Ok(false) };
        let Some(link) = self.links.get(id) else { return Ok(false) };
        if let Some(bytes) = fan.coming(index) {
            let step = link.peek().map_err(|error| End::ServerMalformed(error.to_string()))?;
            let Step::Body { len, end } = step else {
                self.head(id, out)?;
                return Ok(false);
            };
            let mut bytes = std::mem::take(bytes);
            if fan.keeps(len) {
                bytes.extend_from_slice(link.bytes(len));
            } else {
                bytes = Vec::new();
            }
            link.take(len);
            if end {
                link.settle();
            }
            fan.set(index, if end { Progress::Done(bytes) } else { Progress::Coming(id, bytes) });
            return Ok(true);
        }
        let (frame, is_long) = match self.head(id, out)? {
            Some(Step::Frame(frame)) => (frame, false),
            Some(Step::Head(frame)) => (frame, true),
            _ => return Ok(false),
        };
        let Some(link) = self.links.get(id) else { return Ok(false) };
        let bytes = link.bytes(frame.len).to_vec();
        if frame.kind == Kind::Error
            && !is_long
            && self.try_again(Piece { number, part: Some(index) }, id, &bytes)?
        {
            self.take_settled(id, frame.len);
            return Ok(true);
        }
        if let Some(link) = self.links.get(id) {
            link.take(frame.len);
            if !is_long {
                link.settle();
            }
        }
        if let Some(Entry { awaiting: Awaiting::Fan(fan), .. }) = self.order.front() {
            let bytes = if fan.keeps(bytes.len()) { bytes } else { Vec::new() };
            fan.set(index, if is_long { Progress::Coming(id, bytes) } else { Progress::Done(bytes) });
        }
        Ok(true)
    }
}
