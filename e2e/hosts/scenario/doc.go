// Package scenario answers: what must a cluster of several members survive?
//
// Its nouns: a Program is a kind of server, etcd or limpet; a Cluster is some Members of one Program,
// each on a host of its own; a Scenario is one story of failure, written once and told with each
// Program. A witnessed story has clients that write, read and watch from its beginning to its end,
// and package witness judges what they heard.
//
// Invariants:
//
//  1. A story waits for conditions, each with a deadline that only a fault can reach. It never sleeps,
//     and says nothing about how long something took.
//  2. The real etcd passes every story of All: what is asked for is what it does. The tales of limpet
//     alone (TestWays, TestHardDays) are told through its commands, as a user would see them.
package scenario
