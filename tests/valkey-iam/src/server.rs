//! The server's C interface: the only place with `unsafe`.
//!
//! Functions are looked up by name at load: first with Valkey's prefix, then with the older one, so that
//! one build loads into Valkey 7.2 and all later ones. The server calls everything here from its one main
//! thread; the mutex around the state is never waited for, and never held across a call that may come
//! back (logging a client in reports its former user as gone).
#![allow(unsafe_code, reason = "a module of the server is called through, and calls, C functions")]

use std::ffi::{CStr, CString, c_char, c_int, c_longlong, c_ulonglong, c_void};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use crate::gate::{Gate, Verdict};
use crate::settings::Settings;

const OK: c_int = 0;
const ERR: c_int = 1;
const AUTH_HANDLED: c_int = 0;
const AUTH_NOT_HANDLED: c_int = 1;
const API_VERSION: c_int = 1;
const MODULE_VERSION: c_int = 1;
/// `…MODULE_CLIENTINFO_FLAG_MULTI`: the client is inside MULTI.
const CLIENT_IN_MULTI: u64 = 1 << 5;
const MODULE_NAME: &CStr = c"keystile-iam";
/// The one answer for every cause, as on AWS.
const WRONGPASS: &CStr = c"WRONGPASS invalid username-password pair or user is disabled.";

#[repr(C)]
struct Ctx {
    find_function: *const c_void,
}
enum Text {}
enum FilterCtx {}

/// `…ModuleClientInfo`, version 1.
#[repr(C)]
struct ClientInfo {
    version: u64,
    flags: u64,
    id: u64,
    address: [c_char; 46],
    port: u16,
    database: u16,
}

type AuthCallback = unsafe extern "C" fn(*mut Ctx, *mut Text, *mut Text, *mut *mut Text) -> c_int;
type UserChanged = unsafe extern "C" fn(u64, *mut c_void);
type TimerCallback = unsafe extern "C" fn(*mut Ctx, *mut c_void);
type FilterCallback = unsafe extern "C" fn(*mut FilterCtx);
type FindFunction = unsafe extern "C" fn(*const c_char, *mut *mut c_void) -> c_int;

/// Declares the table of the server's functions and how to fill it.
macro_rules! functions {
    ($($field:ident: $name:literal, $kind:ty;)*) => {
        struct Functions { $($field: $kind,)* }

        impl Functions {
            /// # Safety
            /// `ctx` must be the pointer that the server gave to the load function.
            unsafe fn find(ctx: *mut Ctx) -> Option<Self> {
                // SAFETY: the first word of the context is the server's look-up function, by its ABI.
                let find = unsafe { std::mem::transmute::<*const c_void, Option<FindFunction>>((*ctx).find_function)? };
                Some(Self {
                    $($field: {
                        let mut found = std::ptr::null_mut();
                        // SAFETY: the names end in NUL, and `found` outlives the call.
                        let missing = unsafe {
                            find(concat!("ValkeyModule_", $name, "\0").as_ptr().cast(), &mut found) != OK
                                && find(concat!("RedisModule_", $name, "\0").as_ptr().cast(), &mut found) != OK
                        };
                        if missing || found.is_null() {
                            return None;
                        }
                        // SAFETY: the server has a function of this name with this signature.
                        unsafe { std::mem::transmute::<*mut c_void, $kind>(found) }
                    },)*
                })
            }
        }
    };
}

functions! {
    set_attributes: "SetModuleAttribs", unsafe extern "C" fn(*mut Ctx, *const c_char, c_int, c_int);
    log: "Log", unsafe extern "C" fn(*mut Ctx, *const c_char, *const c_char, ...);
    text: "StringPtrLen", unsafe extern "C" fn(*const Text, *mut usize) -> *const c_char;
    new_text: "CreateString", unsafe extern "C" fn(*mut Ctx, *const c_char, usize) -> *mut Text;
    on_auth: "RegisterAuthCallback", unsafe extern "C" fn(*mut Ctx, AuthCallback);
    log_in: "AuthenticateClientWithACLUser",
        unsafe extern "C" fn(*mut Ctx, *const c_char, usize, Option<UserChanged>, *mut c_void, *mut u64) -> c_int;
    close_client: "DeauthenticateAndCloseClient", unsafe extern "C" fn(*mut Ctx, u64) -> c_int;
    reply_error: "ReplyWithError", unsafe extern "C" fn(*mut Ctx, *const c_char) -> c_int;
    timer: "CreateTimer", unsafe extern "C" fn(*mut Ctx, c_longlong, TimerCallback, *mut c_void) -> u64;
    client_id: "GetClientId", unsafe extern "C" fn(*mut Ctx) -> c_ulonglong;
    client_info: "GetClientInfoById", unsafe extern "C" fn(*mut ClientInfo, u64) -> c_int;
    filter: "RegisterCommandFilter", unsafe extern "C" fn(*mut Ctx, FilterCallback, c_int) -> *mut c_void;
    filtered_client: "CommandFilterGetClientId", unsafe extern "C" fn(*mut FilterCtx) -> c_ulonglong;
    words: "CommandFilterArgsCount", unsafe extern "C" fn(*mut FilterCtx) -> c_int;
    word: "CommandFilterArgGet", unsafe extern "C" fn(*mut FilterCtx, c_int) -> *const Text;
    replace_word: "CommandFilterArgReplace", unsafe extern "C" fn(*mut FilterCtx, c_int, *mut Text) -> c_int;
    delete_word: "CommandFilterArgDelete", unsafe extern "C" fn(*mut FilterCtx, c_int) -> c_int;
}

struct Module {
    functions: Functions,
    gate: Mutex<Gate>,
}

static MODULE: OnceLock<Module> = OnceLock::new();

impl Module {
    fn gate(&self) -> MutexGuard<'_, Gate> {
        self.gate.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// # Safety
    /// `text` must be a string of the server's that lives as long as the answer is used.
    unsafe fn bytes<'a>(&self, text: *const Text) -> &'a [u8] {
        let mut length = 0;
        // SAFETY: the server fills in the length of what it points to.
        unsafe {
            let start = (self.functions.text)(text, &mut length);
            if start.is_null() { &[] } else { std::slice::from_raw_parts(start.cast(), length) }
        }
    }
}

/// # Safety
/// `ctx` must be a live context of the server's.
unsafe fn log(functions: &Functions, ctx: *mut Ctx, words: &str) {
    let line = CString::new(words.replace('\0', "?")).unwrap_or_default();
    // SAFETY: a fixed format with one string, which ends in NUL.
    unsafe { (functions.log)(ctx, c"warning".as_ptr(), c"%s".as_ptr(), line.as_ptr()) }
}

/// What the server calls when it loads the module.
///
/// # Safety
/// For the server alone: `arguments` must hold `count` strings.
#[unsafe(no_mangle)]
unsafe extern "C" fn ValkeyModule_OnLoad(
    ctx: *mut Ctx,
    arguments: *const *const Text,
    count: c_int,
) -> c_int {
    // SAFETY: the pointers are the server's own.
    unsafe { load(ctx, arguments, count) }
}

/// The same under the name that Valkey 7.2 looks for.
///
/// # Safety
/// As for [`ValkeyModule_OnLoad`].
#[unsafe(no_mangle)]
unsafe extern "C" fn RedisModule_OnLoad(ctx: *mut Ctx, arguments: *const *const Text, count: c_int) -> c_int {
    // SAFETY: the pointers are the server's own.
    unsafe { load(ctx, arguments, count) }
}

unsafe fn load(ctx: *mut Ctx, arguments: *const *const Text, count: c_int) -> c_int {
    // SAFETY: `ctx` and the arguments are those of the load call; each function is called as declared.
    unsafe {
        let Some(functions) = Functions::find(ctx) else { return ERR };
        (functions.set_attributes)(ctx, MODULE_NAME.as_ptr(), MODULE_VERSION, API_VERSION);
        let words: Vec<String> = (0..usize::try_from(count).unwrap_or(0))
            .map(|index| {
                let mut length = 0;
                let start = (functions.text)(*arguments.add(index), &mut length);
                String::from_utf8_lossy(std::slice::from_raw_parts(start.cast(), length)).into_owned()
            })
            .collect();
        let gate = match Settings::parse(&words) {
            Ok(settings) => Gate::new(settings),
            Err(wrong) => {
                log(&functions, ctx, &wrong);
                return ERR;
            }
        };
        let Ok(()) = MODULE.set(Module { functions, gate: Mutex::new(gate) }) else { return ERR };
        let Some(module) = MODULE.get() else { return ERR };
        (module.functions.on_auth)(ctx, on_auth);
        if (module.functions.filter)(ctx, on_command, 0).is_null() {
            return ERR;
        }
        sweep(ctx, std::ptr::null_mut());
        OK
    }
}

unsafe extern "C" fn on_auth(
    ctx: *mut Ctx,
    user: *mut Text,
    password: *mut Text,
    _: *mut *mut Text,
) -> c_int {
    let Some(module) = MODULE.get() else { return AUTH_NOT_HANDLED };
    // SAFETY: the context and both strings live through this call.
    unsafe {
        let name = module.bytes(user);
        let (verdict, complaints) = module.gate().judge(name, module.bytes(password), unix_now());
        for complaint in complaints {
            log(&module.functions, ctx, &complaint);
        }
        match verdict {
            Verdict::NotOurs => AUTH_NOT_HANDLED,
            Verdict::Refuse(why) => refuse(module, ctx, name, &why),
            Verdict::Admit => admit(module, ctx, name),
        }
    }
}

unsafe fn admit(module: &Module, ctx: *mut Ctx, user: &[u8]) -> c_int {
    // SAFETY: the context is that of the client that logs in; `user` outlives the call.
    unsafe {
        let mut client = 0;
        let done = (module.functions.log_in)(
            ctx,
            user.as_ptr().cast(),
            user.len(),
            Some(on_user_changed),
            std::ptr::null_mut(),
            &mut client,
        );
        if done != OK {
            return refuse(module, ctx, user, "the server has no such user, or it is off");
        }
        module.gate().admitted(client, Instant::now());
        AUTH_HANDLED
    }
}

unsafe fn refuse(module: &Module, ctx: *mut Ctx, user: &[u8], why: &str) -> c_int {
    let user = String::from_utf8_lossy(user);
    // SAFETY: the context is that of the client that logs in.
    unsafe {
        let client = (module.functions.client_id)(ctx);
        log(&module.functions, ctx, &format!("refused the IAM login of {user:?}, client {client}: {why}"));
        // The server itself answers a refusal only to a client that has no other answer waiting, so one
        // in the middle of a pipeline would get none: the answer is given here.
        (module.functions.reply_error)(ctx, WRONGPASS.as_ptr());
    }
    AUTH_HANDLED
}

/// The client logged in as somebody (perhaps the same user again), was reset, or went away.
unsafe extern "C" fn on_user_changed(client: u64, _: *mut c_void) {
    if let Some(module) = MODULE.get() {
        module.gate().lives.forget(client);
    }
}

/// Ends the connections whose life is over, and comes again.
unsafe extern "C" fn sweep(ctx: *mut Ctx, _: *mut c_void) {
    let Some(module) = MODULE.get() else { return };
    // SAFETY: the timer's context is live; a client that is already gone is answered with an error.
    unsafe {
        loop {
            // Two steps: closing a client comes back to `on_user_changed`.
            let ended = module.gate().lives.take_ended(Instant::now());
            let Some(client) = ended else { break };
            log(&module.functions, ctx, &format!("the IAM life of client {client} is over: closed"));
            (module.functions.close_client)(ctx, client);
        }
        let pause = module.gate().sweep_every().as_millis();
        let pause = c_longlong::try_from(pause).unwrap_or(c_longlong::MAX);
        (module.functions.timer)(ctx, pause, sweep, std::ptr::null_mut());
    }
}

/// Refuses AUTH and HELLO … AUTH inside MULTI when they are sent. The server would queue them; a command
/// that it never allows inside MULTI takes their place, so that its own refusal poisons the EXEC.
unsafe extern "C" fn on_command(filter: *mut FilterCtx) {
    let Some(module) = MODULE.get() else { return };
    let functions = &module.functions;
    // SAFETY: the filter's context and its words live through this call.
    unsafe {
        let verb = module.bytes((functions.word)(filter, 0));
        let is_auth = verb.eq_ignore_ascii_case(b"AUTH");
        if !is_auth && !verb.eq_ignore_ascii_case(b"HELLO") {
            return;
        }
        let count = (functions.words)(filter);
        let carries_auth = is_auth
            || (1..count).any(|at| module.bytes((functions.word)(filter, at)).eq_ignore_ascii_case(b"AUTH"));
        if !carries_auth || !in_multi(functions, (functions.filtered_client)(filter)) {
            return;
        }
        for at in (2..count).rev() {
            (functions.delete_word)(filter, at);
        }
        for (at, word) in [(0, c"WATCH"), (1, c"-")] {
            let word = (functions.new_text)(std::ptr::null_mut(), word.as_ptr(), word.count_bytes());
            (functions.replace_word)(filter, at, word);
        }
    }
}

unsafe fn in_multi(functions: &Functions, client: u64) -> bool {
    let mut info = ClientInfo { version: 1, flags: 0, id: 0, address: [0; 46], port: 0, database: 0 };
    // SAFETY: the server fills in the version of the structure that it is told.
    let found = unsafe { (functions.client_info)(&mut info, client) };
    found == OK && info.flags & CLIENT_IN_MULTI != 0
}

#[expect(
    clippy::disallowed_methods,
    reason = "the adapter to the server is where this crate reads the clock"
)]
fn unix_now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
}
