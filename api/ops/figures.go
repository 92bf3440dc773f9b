package ops

import (
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
)

// The figures read at each scrape, under etcd's names where etcd has them. A
// figure that stands for something limpet does not have is always zero: it is
// here because dashboards and alert rules name it.

func zero() float64 { return 0 }

func bit(b bool) float64 {
	if b {
		return 1
	}
	return 0
}

func (m *Metrics) gauges() []figure {
	src := &m.src
	return []figure{
		{"etcd_server_has_leader", "Whether or not a leader exists. 1 is existence, 0 is not.", func() float64 { return bit(src.Node.Leader() != 0) }},
		{"etcd_server_is_leader", "Whether or not this member is a leader. 1 if is, 0 otherwise.", func() float64 { return bit(src.Node.Leader() == src.MemberID) }},
		{"etcd_server_is_learner", "Whether or not this member is a learner. 1 if is, 0 otherwise.", func() float64 { self := src.Node.Membership().Self; return bit(self != nil && self.Learner) }},
		{"etcd_server_proposals_committed_total", "The total number of consensus proposals committed.", func() float64 { return float64(src.Node.Status().Committed) }},
		{"etcd_server_proposals_applied_total", "The total number of consensus proposals applied.", func() float64 { return float64(src.Store.Applied()) }},
		{"etcd_server_proposals_pending", "The current number of pending proposals to commit.", func() float64 { return float64(src.Node.Status().Pending) }},
		{"etcd_server_quota_backend_bytes", "Current backend storage quota size in bytes.", func() float64 { return float64(src.QuotaBytes) }},
		{"etcd_server_snapshot_apply_in_progress_total", "1 if the server is applying the incoming snapshot. 0 if none.", zero},
		{"etcd_mvcc_db_total_size_in_bytes", "Total size of the database in bytes, what waits to be written included.", func() float64 { return float64(src.Store.Stats().Size) }},
		{"etcd_mvcc_db_total_size_in_use_in_bytes", "The same without free pages.", func() float64 { return float64(src.Store.Stats().SizeInUse) }},
		{"etcd_mvcc_db_open_read_transactions", "The number of currently open read transactions; limpet's last one statement.", zero},
		{"etcd_debugging_mvcc_keys_total", "Total number of keys.", func() float64 { return float64(src.Store.Stats().Keys) }},
		{"etcd_debugging_mvcc_current_revision", "The current revision of store.", func() float64 { return float64(src.Store.Rev()) }},
		{"etcd_debugging_mvcc_compact_revision", "The revision of the last compaction in store.", func() float64 { return float64(src.Store.Floor()) }},
		{"etcd_debugging_mvcc_db_compaction_last", "The unix time of the last compaction; 0 if there was none since start.", func() float64 { return float64(m.lastCompact.Load()) }},
		{"etcd_debugging_mvcc_watch_stream_total", "Total number of watch streams.", func() float64 { return float64(src.Hub.Stats().Streams) }},
		{"etcd_debugging_mvcc_watcher_total", "Total number of watchers.", func() float64 { return float64(src.Hub.Stats().Watchers) }},
		{"etcd_debugging_mvcc_slow_watcher_total", "Total number of watchers that read history, being behind.", func() float64 { return float64(src.Hub.Stats().Behind) }},
		{"etcd_debugging_mvcc_pending_events_total", "Total number of revisions noted at watchers and not pulled yet.", func() float64 { return float64(src.Hub.Stats().Pending) }},
		{"etcd_debugging_mvcc_total_put_size_in_bytes", "The total size of put kv pairs seen by this member.", func() float64 { return float64(m.putBytes.Load()) }},
		{"etcd_disk_wal_write_bytes_total", "Total number of bytes written in WAL.", func() float64 { return float64(m.walBytes.Load()) }},
		{"etcd_debugging_auth_revision", "The current revision of auth store.", func() float64 { return float64(src.Node.Rules().Revision()) }},
		{"etcd_debugging_store_watchers", "Count of currently active v2 watchers.", func() float64 { return float64(src.Node.V2().Stats().Watchers) }},
		{"etcd_grpc_proxy_cache_hits_total", "A figure of etcd's proxy.", zero},
		{"etcd_grpc_proxy_cache_keys_total", "A figure of etcd's proxy.", zero},
		{"etcd_grpc_proxy_cache_misses_total", "A figure of etcd's proxy.", zero},
		{"etcd_grpc_proxy_watchers_coalescing_total", "A figure of etcd's proxy.", zero},
		{"os_fd_limit", "The file descriptor limit.", func() float64 { return float64(fileLimit()) }},
		{"os_fd_used", "The number of used file descriptors.", filesOpen},
		{"limpet_tail_pending_bytes", "Bytes applied and not yet written to SQLite.", func() float64 { return float64(src.Store.Stats().Pending) }},
		{"limpet_raft_log_bytes", "Bytes of the raft log since it was last trimmed.", func() float64 { return float64(src.Node.Status().LogBytes) }},
		{"limpet_raft_durable_index", "Raft index up to which SQLite holds everything, synced.", func() float64 { return float64(src.Store.Durable()) }},
		{"limpet_clock_seconds", "This member's wall clock, Unix time: compared with the time of the scrape it tells a clock that is wrong.", func() float64 { return float64(time.Now().UnixMilli()) / 1000 }},
		{"limpet_disk_writable", "1 while the keeper can write the database.", func() float64 { return bit(src.Store.Err() == nil) }},
	}
}

func (m *Metrics) counters() []figure {
	src := &m.src
	return []figure{
		{"etcd_mvcc_put_total", "Total number of puts seen by this member.", func() float64 { return float64(m.puts.Load()) }},
		{"etcd_mvcc_delete_total", "Total number of deletes seen by this member.", func() float64 { return float64(m.deletes.Load()) }},
		{"etcd_mvcc_txn_total", "Total number of txns seen by this member.", func() float64 { return float64(m.txns.Load()) }},
		{"etcd_network_client_grpc_sent_bytes_total", "The total number of bytes sent to grpc clients, HTTP/2 framing included.", func() float64 { return float64(m.Traffic.Sent.Load()) }},
		{"limpet_client_rejected_connections_total", "Connections of clients with which TLS came to nothing.", func() float64 { return float64(m.Traffic.Rejected.Load()) }},
		{"etcd_network_client_grpc_received_bytes_total", "The total number of bytes received from grpc clients, HTTP/2 framing included.", func() float64 { return float64(m.Traffic.Received.Load()) }},
		{"etcd_debugging_mvcc_events_total", "Total number of events sent by this member.", func() float64 { return float64(src.Hub.Stats().Events) }},
		{"etcd_debugging_mvcc_db_compaction_keys_total", "Total number of db keys compacted.", func() float64 { return float64(m.compacted.Load()) }},
		{"etcd_debugging_lease_granted_total", "The total number of granted leases.", func() float64 { return float64(m.granted.Load()) }},
		{"etcd_debugging_lease_revoked_total", "The total number of revoked leases.", func() float64 { return float64(m.revoked.Load()) }},
		{"etcd_server_leader_changes_seen_total", "The number of leader changes seen.", func() float64 { return float64(m.leaderChanges.Load()) }},
		{"etcd_server_read_indexes_failed_total", "The total number of failed read indexes seen.", func() float64 { return float64(m.readsFailed.Load()) }},
		{"etcd_server_slow_read_indexes_total", "The total number of pending read indexes not in sync with leader's or timed out read index requests.", zero},
		{"etcd_server_slow_apply_total", "The total number of slow apply requests (likely overloaded from slow disk).", zero},
		{"etcd_server_heartbeat_send_failures_total", "The total number of leader heartbeat send failures (likely overloaded from slow disk).", zero},
		{"etcd_debugging_store_expires_total", "Total number of expired v2 keys.", func() float64 { return float64(src.Node.V2().Stats().Expired) }},
		{"etcd_debugging_store_watch_requests_total", "Total number of incoming v2 watch requests.", zero},
		{"etcd_grpc_proxy_events_coalescing_total", "A figure of etcd's proxy.", zero},
	}
}

// raised counts the members that have raised an alarm, as this one knows it.
func (m *Metrics) raised(kind pb.AlarmType) float64 {
	n := 0
	for _, a := range m.src.Node.Alarms() {
		if a.Type == kind {
			n++
		}
	}
	return float64(n)
}
