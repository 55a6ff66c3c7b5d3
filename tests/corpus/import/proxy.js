/* The original's proxy. */
{
nodes: [
  {host: '10.0.0.1', port: 8127, adminport: 8128},
  {host: '10.0.0.2', port: 8129, adminport: 8128}
],
server: './servers/udp',
host:  '0.0.0.0',
port: 8125,
mgmt_port: 8126,
forkCount: 4,
checkInterval: 1000,
cacheSize: 10000,
title: "proxy"
}
