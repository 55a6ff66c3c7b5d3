//! The two clocks of presence. The engine's is monotonic and starts anywhere; states and deadlines are on it alone, so that
//! a wall clock that is set moves no deadline. What is shown and published is in Unix time. An [`Epoch`] is the one way
//! from one to the other.

use serde::{Deserialize, Serialize};

macro_rules! clock {
    ($(#[$meta:meta])* $name:ident) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, PartialOrd, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(f64);

        impl $name {
            /// The time at so many seconds of this clock.
            pub const fn from_secs(secs: f64) -> $name {
                $name(secs)
            }

            /// Seconds of this clock.
            pub const fn as_secs(self) -> f64 {
                self.0
            }

            /// The later of two times.
            #[must_use]
            pub fn max(self, other: $name) -> $name {
                $name(self.0.max(other.0))
            }

            /// The earlier of two times.
            #[must_use]
            pub fn min(self, other: $name) -> $name {
                $name(self.0.min(other.0))
            }
        }

        impl std::ops::Add<f64> for $name {
            type Output = $name;

            fn add(self, secs: f64) -> $name {
                $name(self.0 + secs)
            }
        }

        impl std::ops::Sub<f64> for $name {
            type Output = $name;

            fn sub(self, secs: f64) -> $name {
                $name(self.0 - secs)
            }
        }

        impl std::ops::Sub for $name {
            type Output = f64;

            /// Seconds from the other time to this one.
            fn sub(self, other: $name) -> f64 {
                self.0 - other.0
            }
        }
    };
}

clock! {
    /// A time on the engine's clock, in seconds since some start. It never runs backwards, and a restart continues it.
    EngineTime
}

clock! {
    /// Wall time, in seconds since 1970.
    UnixTime
}

impl UnixTime {
    /// The time that a text of whole seconds says, as programs give their start; `None` if it is something else.
    pub fn of_start(text: &str) -> Option<UnixTime> {
        // From September 2001 to November 2286 they have ten digits.
        let is_seconds = text.len() == 10 && !text.starts_with('0') && text.bytes().all(|byte| byte.is_ascii_digit());
        text.parse().ok().filter(|_| is_seconds).map(UnixTime)
    }
}

impl EngineTime {
    /// Before everything that is remembered.
    pub(super) const LONG_AGO: EngineTime = EngineTime(-1e9);

    /// After everything that is waited for.
    pub(super) const NEVER: EngineTime = EngineTime(f64::INFINITY);

    /// Orders times, and everything else that a number can be, too.
    pub(super) fn total_cmp(&self, other: &EngineTime) -> std::cmp::Ordering {
        self.0.total_cmp(&other.0)
    }
}

/// What has a value that stands for none.
pub(super) trait OrNone: Copy {
    /// It.
    const NONE: Self;

    fn is_none(self) -> bool;
}

impl OrNone for f64 {
    const NONE: f64 = f64::NAN;

    fn is_none(self) -> bool {
        self.is_nan()
    }
}

impl OrNone for EngineTime {
    const NONE: EngineTime = EngineTime(f64::NAN);

    fn is_none(self) -> bool {
        self.0.is_nan()
    }
}

/// An `Option` in the room of the value alone, for what there is of each instance. It is written as an `Option`.
#[derive(Clone, Copy, Serialize, Deserialize)]
#[serde(
    from = "Option<T>",
    into = "Option<T>",
    bound(serialize = "T: OrNone + Serialize", deserialize = "T: OrNone + Deserialize<'de>")
)]
pub(super) struct Maybe<T>(T);

impl<T: OrNone> Maybe<T> {
    pub(super) const NONE: Maybe<T> = Maybe(T::NONE);

    pub(super) fn some(value: T) -> Maybe<T> {
        Maybe(value)
    }

    pub(super) fn get(self) -> Option<T> {
        (!self.0.is_none()).then_some(self.0)
    }

    pub(super) fn is_none(&self) -> bool {
        self.0.is_none()
    }
}

impl<T: OrNone> Default for Maybe<T> {
    fn default() -> Maybe<T> {
        Maybe::NONE
    }
}

impl<T: OrNone> From<Option<T>> for Maybe<T> {
    fn from(value: Option<T>) -> Maybe<T> {
        value.map_or(Maybe::NONE, Maybe)
    }
}

impl<T: OrNone> From<Maybe<T>> for Option<T> {
    fn from(value: Maybe<T>) -> Option<T> {
        value.get()
    }
}

impl<T: OrNone + std::fmt::Debug> std::fmt::Debug for Maybe<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.get().fmt(f)
    }
}

/// Where the engine's clock stands in Unix time.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Epoch(f64);

impl Epoch {
    /// The engine's clock shows Unix time.
    pub const UNIX: Epoch = Epoch(0.0);

    /// The epoch by which the engine's clock shows `engine` when the wall clock shows `unix`.
    pub fn new(unix: UnixTime, engine: EngineTime) -> Epoch {
        Epoch(unix.0 - engine.0)
    }

    /// A time of the engine's clock in Unix time.
    pub fn to_unix(self, at: EngineTime) -> UnixTime {
        UnixTime(at.0 + self.0)
    }

    /// A Unix time on the engine's clock.
    pub fn to_engine(self, at: UnixTime) -> EngineTime {
        EngineTime(at.0 - self.0)
    }

    /// The same after the wall clock was set by so many seconds.
    #[must_use]
    pub fn stepped(self, secs: f64) -> Epoch {
        Epoch(self.0 + secs)
    }

    /// Seconds by which the wall clock was set between an earlier epoch and this one.
    pub fn step_since(self, earlier: Epoch) -> f64 {
        self.0 - earlier.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_may_be_none_takes_no_more_room_and_is_written_as_an_option() {
        assert_eq!(size_of::<Maybe<EngineTime>>(), size_of::<EngineTime>());
        for (text, value) in [("null", None), ("2.5", Some(EngineTime::from_secs(2.5)))] {
            let maybe: Maybe<EngineTime> = serde_json::from_str(text).expect("JSON");
            assert_eq!((maybe.get(), maybe.is_none()), (value, value.is_none()));
            assert_eq!(serde_json::to_string(&maybe).expect("JSON"), text);
        }
        #[derive(Deserialize)]
        struct Older {
            at: Maybe<f64>,
        }
        assert!(serde_json::from_str::<Older>("{}").expect("JSON").at.is_none());
        assert_eq!((Maybe::<f64>::some(0.0).get(), Maybe::<f64>::NONE.get()), (Some(0.0), None));
    }

    #[test]
    fn an_epoch_converts_and_shows_steps_of_the_wall_clock() {
        let epoch = Epoch::new(UnixTime::from_secs(1_000_005.0), EngineTime::from_secs(5.0));
        assert_eq!(epoch.to_unix(EngineTime::from_secs(7.5)), UnixTime::from_secs(1_000_007.5));
        assert_eq!(epoch.to_engine(UnixTime::from_secs(1_000_007.5)), EngineTime::from_secs(7.5));
        assert_eq!(epoch.stepped(-2.0).step_since(epoch), -2.0);
        let set_back = Epoch::new(UnixTime::from_secs(999_999.0), EngineTime::from_secs(9.0));
        assert_eq!(set_back.step_since(epoch), -10.0);
        assert_eq!(Epoch::UNIX.to_unix(EngineTime::from_secs(3.0)), UnixTime::from_secs(3.0));
    }

    #[test]
    fn a_start_is_a_time_if_it_looks_like_one() {
        assert_eq!(UnixTime::of_start("1795734000"), Some(UnixTime::from_secs(1_795_734_000.0)));
        for other in ["", "77", "0795734000", "179573400a", "1795734000123", "1.4.2"] {
            assert_eq!(UnixTime::of_start(other), None, "{other}");
        }
    }

    #[test]
    fn times_are_plain_numbers_outside() {
        assert_eq!(serde_json::to_string(&EngineTime::from_secs(2.5)).expect("JSON"), "2.5");
        assert_eq!(serde_json::from_str::<UnixTime>("7").expect("a time"), UnixTime::from_secs(7.0));
    }
}
