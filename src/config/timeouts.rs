//! `timeouts`, of an upstream and of a route.

use std::time::Duration;

use crate::config::form::duration;
use crate::config::section::section;

section! {
    /// Timeouts of requests to the upstream.
    #[derive(Clone, Copy, Debug)]
    pub(crate) struct Timeouts: Default in "timeouts" {
        /// The time limit for opening a connection.
        connect: Duration = duration().or(Duration::from_secs(5));
        /// The time limit from the end of the request to the head of the answer.
        ///
        /// If an answer is not streamed, an upstream sends the head of the answer only after the
        /// whole answer is generated. The OpenAI clients wait for ten minutes.
        response_headers: Duration = duration().or(Duration::from_secs(600));
        /// The longest time between two bytes of an answer.
        idle: Duration = duration().or(Duration::from_secs(300));
    }
}

section! {
    /// Timeouts of the route, instead of those of its upstream.
    #[derive(Clone, Copy, Debug)]
    pub(crate) struct RouteTimeouts: Default in "timeouts" {
        /// The time limit for opening a connection.
        connect: Option<Duration> = duration().optional();
        /// The time limit from the end of the request to the head of the answer.
        response_headers: Option<Duration> = duration().optional();
        /// The longest time between two bytes of an answer.
        idle: Option<Duration> = duration().optional();
    }
}

impl Timeouts {
    pub(crate) fn overridden(self, by: RouteTimeouts) -> Self {
        Timeouts {
            connect: by.connect.unwrap_or(self.connect),
            response_headers: by.response_headers.unwrap_or(self.response_headers),
            idle: by.idle.unwrap_or(self.idle),
        }
    }
}
