//! The threads that send. A supervisor, its attempts and its HTTP client share one, so that what
//! one receiver does costs the endpoints on other threads nothing.

mod lag;
mod thread;
mod threads;

pub(crate) use self::thread::Place;
pub(crate) use self::threads::SendingThreads;
