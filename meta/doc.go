// Package meta is the namespace of dfs as a deterministic state machine over an
// ordered key-value table: inodes, entries, extents, extended attributes,
// sessions and their kept answers, chunk records, the cluster map and the list
// of masters. Apply carries out one Command and answers with a Reply; View reads.
//
// It guarantees that the same commands in the same order make the same bytes of
// the table on every master. So there is no clock here (the leader puts the time
// into the command), no goroutine, no random choice, and no order of a Go map
// reaches the table. A command that is refused changes nothing but the kept
// answer of its session. A command that was answered before is answered the same
// again and changes nothing.
//
// The package holds no lock: who owns the table lets one Apply or any number of
// views use it at a time.
package meta
