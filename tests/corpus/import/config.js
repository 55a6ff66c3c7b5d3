/* A statsd of somebody who has set much. { this: "is not read" } */
{
  graphiteHost: "graphite.example.org"
, graphitePort: 2103
, graphitePicklePort: 2104
, graphiteProtocol: 'pickle'
, port: 18125 // where everybody sends to
, address: "127.0.0.1"
, mgmt_port: 18126
, mgmt_address: "10.1.2.3"
, healthStatus: "down"
, backends: ["./backends/graphite", "./backends/console", "./backends/repeater", "statsd-elasticsearch-backend"]
, flushInterval: 2500
, percentThreshold: [90, 99.9, -10]
, deleteIdleStats: true
, deleteGauges: false
, gaugesMaxTTL: 3
, keyNameSanitize: false
, flush_counts: false
, prefixStats: process.env.PREFIX || "statsd"
, calculatedTimerMetrics: ["count", "upper_percent"]
, histogram: [ { metric: "render", bins: [0.01, 1, 'inf'] }, { metric: "", bins: [] } ]
, graphite: {
    legacyNamespace: false,
    globalPrefix: "s",
    globalSuffix: ""
  }
, repeater: [ { host: '10.10.10.10', port: 8125 } ]
, keyFlush: { interval: 60000, percent: 100 }
, dumpMessages: false
, debug: true
, fluhsInterval: 1
}
