//! Random requests, the same for the same seed.
//!
//! What is left out is left out because its answer depends on time, chance, or a hash seed, or because
//! docs/FIDELITY.md says that it differs.

use std::time::{Duration, Instant};

use super::twin::{Rules, TOKEN_AUTH, Twins};

/// SplitMix64: enough for a test, and the same everywhere.
#[derive(Clone)]
pub struct Dice(u64);

impl Dice {
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    pub fn below(&mut self, most: usize) -> usize {
        usize::try_from(self.next() % u64::try_from(most).unwrap()).unwrap()
    }

    pub fn one_in(&mut self, chance: usize) -> bool {
        self.below(chance) == 0
    }

    pub fn pick<'a, T>(&mut self, from: &'a [T]) -> &'a T {
        &from[self.below(from.len())]
    }
}

/// No `DUMP`: a stream's has the time at which a consumer was last seen.
///
/// `K` a key, `V` a value, `L` a long one, `F` a field or member, `I` a number, `C` a channel; the rest as it is.
const COMMANDS: &[&str] = &[
    "GET K",
    "SET K V",
    "SET K L",
    "SET K V NX",
    "SET K V XX GET",
    "SETNX K V",
    "GETSET K V",
    "GETDEL K",
    "APPEND K V",
    "STRLEN K",
    "GETRANGE K I I",
    "SETRANGE K I V",
    "INCR K",
    "INCRBY K I",
    "INCRBYFLOAT K 0.5",
    "DECR K",
    "MGET K K K",
    "MSET K V K V",
    "MSETNX K V K V",
    "DEL K K",
    "UNLINK K",
    "EXISTS K K",
    "TYPE K",
    "RENAME K K",
    "RENAMENX K K",
    "COPY K K",
    "COPY K K REPLACE",
    "PERSIST K",
    "EXPIREAT K 9999999999",
    "EXPIRETIME K",
    "TOUCH K K",
    "OBJECT ENCODING K",
    "DBSIZE",
    "SETBIT K I 1",
    "GETBIT K I",
    "BITCOUNT K",
    "BITPOS K 1",
    "BITOP AND K K K",
    "BITFIELD K GET u8 0 INCRBY i5 3 7",
    "LCS K K LEN",
    "LPUSH K V V",
    "RPUSH K V V V",
    "RPUSH K L",
    "LPUSHX K V",
    "LPOP K",
    "RPOP K I",
    "LLEN K",
    "LRANGE K 0 -1",
    "LRANGE K I I",
    "LINDEX K I",
    "LSET K I V",
    "LINSERT K BEFORE V V",
    "LREM K I V",
    "LTRIM K I I",
    "LPOS K V",
    "LMOVE K K LEFT RIGHT",
    "LMPOP 2 K K LEFT COUNT 2",
    "RPOPLPUSH K K",
    "BLPOP K K 0.01",
    "BLMOVE K K RIGHT LEFT 0.01",
    "HSET K F V F V",
    "HSETNX K F V",
    "HGET K F",
    "HMGET K F F",
    "HGETALL K",
    "HKEYS K",
    "HVALS K",
    "HLEN K",
    "HDEL K F",
    "HEXISTS K F",
    "HINCRBY K F I",
    "HINCRBYFLOAT K F 1.5",
    "HSTRLEN K F",
    "SADD K F F",
    "SREM K F",
    "SISMEMBER K F",
    "SMISMEMBER K F F",
    "SMEMBERS K",
    "SCARD K",
    "SMOVE K K F",
    "SINTER K K",
    "SINTERCARD 2 K K",
    "SUNIONSTORE K K K",
    "SDIFFSTORE K K K",
    "ZADD K I F I F",
    "ZADD K XX GT CH I F",
    "ZADD K INCR I F",
    "ZREM K F",
    "ZSCORE K F",
    "ZMSCORE K F F",
    "ZRANGE K 0 -1 WITHSCORES",
    "ZRANGEBYSCORE K -inf +inf",
    "ZRANGEBYLEX K - +",
    "ZRANK K F WITHSCORE",
    "ZREVRANK K F",
    "ZCOUNT K 0 I",
    "ZCARD K",
    "ZINCRBY K I F",
    "ZPOPMIN K",
    "ZPOPMAX K 2",
    "ZUNIONSTORE K 2 K K",
    "ZINTER 2 K K WITHSCORES",
    "ZDIFF 2 K K",
    "ZMPOP 1 K MIN",
    "BZPOPMIN K 0.01",
    "GEOADD K 13.36 38.11 F",
    "GEOPOS K F",
    "GEODIST K F F km",
    "PFADD K V V",
    "PFCOUNT K K",
    "XADD K I-1 F V",
    "XADD K * ",
    "XLEN K",
    "XRANGE K - +",
    "XREVRANGE K + - COUNT 2",
    "XDEL K I-1",
    "XTRIM K MAXLEN 2",
    "XREAD COUNT 2 STREAMS K 0",
    "XGROUP CREATE K g 0",
    "XGROUP CREATE K g 0 MKSTREAM",
    "XREADGROUP GROUP g me COUNT 2 STREAMS K >",
    "XACK K g I-1",
    "XGROUP DESTROY K g",
    "SORT K",
    "SORT K ALPHA",
    "SORT K BY nosort",
    "EVAL \"return redis.call('get', KEYS[1])\" 1 K",
    "EVAL \"return {KEYS[1], ARGV[1], redis.pcall('incr', KEYS[1])}\" 1 K V",
    "EVAL \"redis.setresp(3); return {double=1.5}\" 0",
    "EVALSHA ffffffffffffffffffffffffffffffffffffffff 0",
    "PUBLISH C V",
    "SPUBLISH C V",
    "PUBSUB NUMSUB C C",
    "PUBSUB NUMPAT",
    "PING",
    "PING V",
    "ECHO V",
    "ECHO L",
    "SELECT 0",
    "SELECT 1",
    "SELECT 99",
    "MOVE K 1",
    "CLIENT SETNAME F",
    "CLIENT GETNAME",
    "CLIENT SETINFO LIB-NAME F",
    "CLIENT NO-TOUCH ON",
    "CLIENT GETREDIR",
    "CLIENT NONSENSE",
    "CLIENT",
    "CONFIG GET maxmemory-policy",
    "COMMAND COUNT",
    "COMMAND INFO get",
    "ACL WHOAMI",
    "WAIT 0 0",
    "OBJECT HELP",
    "NONSENSE V",
    "JSON.GET K V",
    "GET",
    "SET K",
    "HSET K F",
    "FLUSHDB",
    "CLUSTER INFO",
    "READONLY",
    "LASTSAVE x",
    "QUITE",
    "MEMORY USAGE nothing",
    "SWAPDB 0 99",
];

/// What changes the connection, and is not sent inside MULTI (docs/FIDELITY.md).
const OF_THE_CONNECTION: &[&str] = &[
    "HELLO 2",
    "HELLO 3",
    "HELLO",
    "HELLO 9",
    "HELLO 3 SETNAME F",
    "SUBSCRIBE C",
    "SUBSCRIBE C C",
    "PSUBSCRIBE C*",
    "SSUBSCRIBE C",
    "UNSUBSCRIBE c0 c1 c2",
    "UNSUBSCRIBE C",
    "PUNSUBSCRIBE",
    "SUNSUBSCRIBE c0 c1 c2",
    "SUNSUBSCRIBE C",
    "SUBSCRIBE",
    "CLIENT REPLY ON",
    "CLIENT REPLY OFF",
    "CLIENT REPLY SKIP",
    "CLIENT REPLY ON",
    "AUTH",
    "AUTH a b c",
    "CLIENT TRACKING ON",
    "CLIENT TRACKING ON NOLOOP",
    "CLIENT TRACKING OFF",
    "UNSUBSCRIBE c0 c1 c2",
    "PUNSUBSCRIBE",
    "SUNSUBSCRIBE c0 c1 c2",
];

const OF_TRANSACTIONS: &[&str] =
    &["MULTI", "EXEC", "EXEC", "DISCARD", "WATCH K", "WATCH K K", "UNWATCH", "MULTI x", "WATCH"];

/// What the generator knows of the connection: enough to leave out what is known to differ.
#[derive(Default)]
pub struct Model {
    in_multi: bool,
    resp3: bool,
    subscribed: bool,
    /// Keys lie in many slots, and commands of several keys need them in one.
    clustered: bool,
}

impl Model {
    /// Of a session in cluster mode, which is compared with a single server.
    pub fn clustered() -> Self {
        Self { clustered: true, ..Self::default() }
    }

    /// As after a `RESET`.
    pub fn reset(&mut self) {
        *self = Self { clustered: self.clustered, ..Self::default() };
    }
}

/// What a cluster and a single server answer differently, all of it in docs/CLUSTER-MODE.md: other databases, how
/// many heard a message, the order in which invalidations of several shards come, and what is said of a cluster.
const NOT_ALIKE: &[&str] = &[
    "SELECT 1",
    "SELECT 99",
    "MOVE",
    "SWAPDB",
    "PUBLISH",
    "SPUBLISH",
    "PUBSUB",
    "READONLY",
    "CLUSTER",
    "CLIENT TRACKING",
    "CLIENT GETREDIR",
];
/// Commands whose keys may be in several slots.
const SPLIT: &[&str] = &["MGET", "DEL", "UNLINK", "EXISTS", "TOUCH"];

/// Whether the keys of a command have to be in one slot.
fn needs_one_slot(template: &str, model: &Model) -> bool {
    let keys = template.split(' ').filter(|word| *word == "K").count();
    let name = template.split(' ').next().unwrap_or_default();
    model.clustered && (model.in_multi || name == "WATCH" || keys > 1 && !SPLIT.contains(&name))
}

/// The words of one request.
pub fn request(dice: &mut Dice, model: &mut Model) -> Vec<Vec<u8>> {
    let template = match dice.below(20) {
        0 | 1 => *dice.pick(OF_TRANSACTIONS),
        2 if !model.in_multi => *dice.pick(OF_THE_CONNECTION),
        _ => *dice.pick(COMMANDS),
    };
    if model.clustered && NOT_ALIKE.iter().any(|known| template.starts_with(known)) {
        return request(dice, model);
    }
    // One that is queued by no shard in particular.
    if model.clustered && model.in_multi && !template.contains('K') && !OF_TRANSACTIONS.contains(&template) {
        return request(dice, model);
    }
    // A subscriber that leaves RESP3 keeps its server leg as it is.
    if model.subscribed && template.starts_with("HELLO 2") {
        return request(dice, model);
    }
    let one_slot = needs_one_slot(template, model);
    match template {
        "MULTI" => model.in_multi = true,
        "EXEC" | "DISCARD" => model.in_multi = false,
        "HELLO 2" => model.resp3 = false,
        _ if template.starts_with("HELLO 3") => model.resp3 = true,
        _ if template.contains("UBSCRIBE C") && !template.contains("UNSUB") => model.subscribed = true,
        _ => {}
    }
    let words = keystile_resp::request::split_inline(template.as_bytes()).unwrap();
    let tag = if one_slot { "{t}" } else { "" };
    words.into_iter().map(|word| fill(dice, word, tag)).collect()
}

fn fill(dice: &mut Dice, word: Vec<u8>, tag: &str) -> Vec<u8> {
    match word.as_slice() {
        b"K" => format!("{tag}k{}", dice.below(8)).into_bytes(),
        b"V" => dice
            .pick(&["", "v", "12", "-7", "3.5", "a\r\nb", "+OK\r\n", "$-1\r\n", "\0x"])
            .as_bytes()
            .to_vec(),
        b"L" => {
            let lengths = [100, 1_000, 16_000, 16_384, 17_000, 40_000, 70_000, 300_000];
            let length = *dice.pick(&lengths);
            (0..length).map(|at| b"abcdefgh\r\n$:*+"[at % 14]).collect()
        }
        b"F" => format!("f{}", dice.below(12)).into_bytes(),
        b"I" => dice.pick(&["0", "1", "2", "3", "-1", "10", "x"]).as_bytes().to_vec(),
        b"I-1" => format!("{}-1", dice.below(20)).into_bytes(),
        b"C" => format!("c{}", dice.below(3)).into_bytes(),
        b"C*" => b"c*".to_vec(),
        _ => word,
    }
}

/// As an array, or, where the words allow it, as an inline line.
pub fn written(dice: &mut Dice, words: &[Vec<u8>]) -> Vec<u8> {
    let plain = words.iter().all(|word| !word.is_empty() && word.iter().all(u8::is_ascii_graphic));
    let safe = words.iter().all(|word| !word.contains(&b'"') && !word.contains(&b'\'') && word.len() < 1_000);
    if plain && safe && dice.one_in(4) {
        return [words.join(&b' '), b"\r\n".to_vec()].concat();
    }
    let mut bytes = Vec::new();
    keystile_resp::encode::request(&mut bytes, words);
    bytes
}

/// Rounds of one connection.
const BATCHES: usize = 30;

/// One connection's life: batches of pipelines, cut at any byte. How many frames were compared.
pub async fn round(twins: &Twins, rules: Rules, mut model: Model, seed: u64) -> usize {
    let mut dice = Dice::new(seed);
    let mut twin = twins.twin(rules).await;
    for _ in 0..BATCHES {
        let requests = 1 + dice.below(60);
        let (mut direct, mut proxied) = (Vec::new(), Vec::new());
        let mut resets = 0;
        for _ in 0..requests {
            if dice.one_in(150) {
                // Nothing more in this batch: the answer to the server's own AUTH is taken out behind it. A PING in
                // front takes what a SKIP may have left.
                direct.extend_from_slice(b"PING\r\nRESET\r\n");
                direct.extend_from_slice(TOKEN_AUTH.as_bytes());
                proxied.extend_from_slice(b"PING\r\nRESET\r\n");
                model.reset();
                resets += 1;
                break;
            }
            let words = request(&mut dice, &mut model);
            let bytes = written(&mut dice, &words);
            direct.extend_from_slice(&bytes);
            proxied.extend_from_slice(&bytes);
        }
        if dice.one_in(3) && resets == 0 {
            let at = dice.below(direct.len());
            twin.send(&direct[..at]).await;
            tokio::time::sleep(Duration::from_millis(1)).await;
            twin.send(&direct[at..]).await;
        } else {
            twin.send_each(&direct, &proxied).await;
        }
        if resets > 0 {
            twin.drop_direct_after(b"+RESET\r\n", 1).await;
        }
        twin.settle().await;
    }
    let compared = twin.compared;
    // Nobody subscribes, replies are on, no transaction is open: both still answer.
    twin.send_each(format!("PING\r\nRESET\r\n{TOKEN_AUTH}").as_bytes(), b"PING\r\nRESET\r\n").await;
    twin.drop_direct_after(b"+RESET\r\n", 1).await;
    twin.settle().await;
    twin.send("FLUSHALL\r\n").await;
    twin.settle().await;
    twin.end().await;
    compared
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

/// Rounds for as long as the environment says, three seconds by default.
#[expect(clippy::print_stdout, reason = "a difference is had again by its seed")]
pub async fn rounds(twins: &Twins, rules: Rules, model: fn() -> Model) {
    let seconds = number("KEYSTILE_DIFFERENTIAL_S").unwrap_or(3);
    let started = time::OffsetDateTime::now_utc().unix_timestamp_nanos();
    let mut seed =
        number("KEYSTILE_DIFFERENTIAL_SEED").unwrap_or_else(|| u64::try_from(started & 0xffff_ffff).unwrap());
    let until = Instant::now() + Duration::from_secs(seconds);
    let (mut rounds, mut compared) = (0, 0);
    while rounds == 0 || Instant::now() < until {
        println!("differential round with KEYSTILE_DIFFERENTIAL_SEED={seed}");
        compared += round(twins, rules, model(), seed).await;
        rounds += 1;
        seed = seed.wrapping_add(1);
    }
    println!("{rounds} rounds, {compared} frames, no difference");
}
