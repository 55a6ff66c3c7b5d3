//! The messages that an OTLP sink sends, as far as the tests read them. They are written down here once more, beside those
//! of the sink: a wrong tag there must not be right here.

use prost::Message;

/// ExportMetricsServiceRequest of OpenTelemetry.
#[derive(Clone, PartialEq, Message)]
pub struct Export {
    #[prost(message, repeated, tag = "1")]
    pub resources: Vec<ResourceMetrics>,
}

#[derive(Clone, PartialEq, Message)]
pub struct ResourceMetrics {
    #[prost(message, repeated, tag = "2")]
    pub scopes: Vec<ScopeMetrics>,
}

#[derive(Clone, PartialEq, Message)]
pub struct ScopeMetrics {
    #[prost(message, repeated, tag = "2")]
    pub metrics: Vec<Metric>,
}

#[derive(Clone, PartialEq, Message)]
pub struct Metric {
    #[prost(string, tag = "1")]
    pub name: String,
    #[prost(message, optional, tag = "7")]
    pub sum: Option<Total>,
}

#[derive(Clone, PartialEq, Message)]
pub struct Total {
    #[prost(message, repeated, tag = "1")]
    pub points: Vec<Point>,
    #[prost(int32, tag = "2")]
    pub temporality: i32,
}

#[derive(Clone, Copy, PartialEq, Message)]
pub struct Point {
    #[prost(double, tag = "4")]
    pub value: f64,
}

impl Export {
    /// The metrics of every resource and scope.
    pub fn metrics(self) -> impl Iterator<Item = Metric> {
        self.resources.into_iter().flat_map(|resource| resource.scopes).flat_map(|scope| scope.metrics)
    }
}
