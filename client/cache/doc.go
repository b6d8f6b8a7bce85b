// Package cache keeps bytes of records that were read. Committed bytes never change,
// so what is kept under (chunk, record) is never stale: there is nothing to validate
// or invalidate, only a limit on memory. Concurrent readers of bytes that are being
// fetched wait for them instead of fetching them again.
//
// Lock order: shard.mu stands alone; nothing is copied and nobody waits under it.
package cache
