package server

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"google.golang.org/grpc"

	"dfs"
	"dfs/meta"
	"dfs/proto/chunkpb"
)

// A session may acknowledge an fsync when the bytes are on the disks of the chunk servers,
// with the intents that say what they are part of, before it has told the masters. When it
// ends without having told them, the leader does in its place, before anybody else gets to
// see the files.

// Times and bounds of a replay.
const (
	replayTimeout = 3 * time.Second // for one chunk server
	replayMax     = 2 * time.Minute // then others go on without what cannot be known
	replayFiles   = 1024            // in one command
	replayTries   = 5
)

// replay commits what a session has acknowledged and not told. Until it succeeds the session
// must not end, nor tell anything itself: what it would do meanwhile is not looked at. The
// error says which chunk servers have to come back.
func (l *leadership) replay(ctx context.Context, id dfs.SessionID) error {
	for try := 1; ; try++ {
		refused, err := l.replayOnce(ctx, id)
		switch {
		case err != nil || refused == dfs.OK:
			return err
		case try == replayTries:
			// It does not get better: what else is there must not wait for it.
			l.s.logger.Error("what a session has written last is refused", "session", id, "errno", refused.Error())
			return nil
		}
	}
}

// replayOnce is replay, by one look at the state. It is refused when a change that the session
// had sent before was made after that look.
func (l *leadership) replayOnce(ctx context.Context, id dfs.SessionID) (refused dfs.Errno, err error) {
	var session meta.Session
	var chunks []meta.Chunk
	var m *dfs.ClusterMap
	exists := false
	err = l.s.node.Read(ctx, func(v meta.View) (err error) {
		if session, exists, err = v.Session(id); err != nil || !exists || !session.Intents {
			return err
		}
		if chunks, err = v.Unsealed(id); err != nil {
			return err
		}
		m, err = v.Map()
		return err
	})
	if err != nil || !exists || !session.Intents {
		return dfs.OK, err
	}
	var files []meta.FileCommit
	var commits []meta.ChunkCommit
	for i := range chunks {
		found, commit, err := l.intents(ctx, m, &chunks[i])
		if err != nil {
			return dfs.OK, fmt.Errorf("what session %s has written last: chunk %s: %w", id, chunks[i].ID, err)
		}
		if len(found) > 0 {
			files, commits = append(files, found...), append(commits, commit)
		}
	}
	if files, err = l.untold(ctx, id, files); err != nil {
		return dfs.OK, err
	}
	for batch := range slices.Chunk(files, replayFiles) {
		r, err := l.s.propose(ctx, &meta.Replay{Session: id, Commit: meta.Commit{Chunks: commits, Files: batch}})
		switch {
		case err != nil:
			return dfs.OK, err
		case r.StaleMap:
			return dfs.OK, fmt.Errorf("session %s: too few servers of its chunks are up", id)
		case r.Errno != dfs.OK:
			return r.Errno, nil
		}
		if n := len(batch) - len(r.Skipped); n > 0 {
			l.s.logger.Info("committed what a session had acknowledged and not told", "session", id, "pieces", n)
		}
	}
	return dfs.OK, nil
}

// untold keeps of a session's pieces those that can follow what it has committed, in order.
func (l *leadership) untold(ctx context.Context, id dfs.SessionID, files []meta.FileCommit) (left []meta.FileCommit, err error) {
	err = l.s.node.Read(ctx, func(v meta.View) error {
		left = nil
		last := map[dfs.Ino]uint64{} // 0: nothing can
		for i := range files {
			ino := files[i].Ino
			seq, known := last[ino]
			if !known {
				session, by, err := v.Writer(ino)
				if err != nil {
					return err
				}
				if session == id {
					seq = by
				}
				last[ino] = seq
			}
			if seq != 0 && files[i].Seq > seq {
				left = append(left, files[i])
			}
		}
		return nil
	})
	slices.SortStableFunc(left, func(a, b meta.FileCommit) int { return cmp.Compare(a.Seq, b.Seq) })
	return left, err
}

// intents seals a chunk on all servers that can be reached, and reads from them what its
// pieces are part of: of the records that all of them have, since only such ones can have been
// acknowledged. Those before what is committed of the chunk too: it is committed up to the last
// record of which any file has made use, and of one before that another's piece may be untold.
func (l *leadership) intents(ctx context.Context, m *dfs.ClusterMap, c *meta.Chunk) ([]meta.FileCommit, meta.ChunkCommit, error) {
	home := m.Home[c.ID.PG(m.Buckets)]
	commit := meta.ChunkCommit{Chunk: c.ID, Committed: c.Committed, Servers: make([]dfs.NodeID, c.ID.Layout().Width())}
	var common map[uint32]*chunkpb.IntentsReply_Record // by offset
	var last error
	asked, present := 0, false
	type answer struct {
		records map[uint32]*chunkpb.IntentsReply_Record
		err     error
	}
	answers := make([]answer, len(commit.Servers))
	var wg sync.WaitGroup
	for i, id := range home {
		if i >= len(commit.Servers) || c.Present&(1<<i) == 0 {
			continue
		}
		present = true
		server := m.Server(id)
		if server == nil || server.State != dfs.ServerUp && server.State != dfs.ServerDrain {
			last = errors.New("its servers are down")
			continue
		}
		wg.Go(func() {
			records, err := l.sealedRecords(ctx, server, c)
			if err != nil {
				err = fmt.Errorf("server %s: %w", server.Name, err)
			}
			answers[i] = answer{records, err}
		})
	}
	wg.Wait()
	for i, a := range answers {
		if a.err != nil {
			last = a.err
		}
		if a.records == nil {
			continue
		}
		commit.Servers[i] = home[i]
		asked++
		if common == nil {
			common = a.records
			continue
		}
		for off, r := range common {
			if o := a.records[off]; o == nil || o.End != r.End || string(o.Intents) != string(r.Intents) {
				delete(common, off)
			}
		}
	}
	// A record that fewer servers have than it takes to read it was not acknowledged; when
	// fewer answer, nobody can tell.
	if asked < c.ID.Layout().Data() {
		if !present {
			return nil, commit, nil // none of its servers is in its place any more
		}
		return nil, commit, last
	}
	var files []meta.FileCommit
	for off, r := range common {
		commit.Committed = max(commit.Committed, r.End)
		list, err := dfs.DecodeIntents(r.Intents)
		if err != nil {
			l.s.logger.Error("intents of a record cannot be read", "chunk", c.ID, "record", off, "err", err)
			continue
		}
		for _, t := range list {
			e := dfs.Extent{Off: t.Off, Len: t.Len, Chunk: c.ID, Record: off, RecordLen: r.RecordLen, Start: t.Start}
			files = append(files, meta.FileCommit{
				Ino: t.Ino, Extents: []dfs.Extent{e}, SizeMin: e.End(), Mtime: t.Mtime, Ctime: t.Ctime, Seq: t.Seq, Prev: t.Prev,
			})
		}
	}
	return files, commit, nil
}

// sealedRecords are the records with intents of a chunk on one server, by their offset. After
// that nobody writes to the chunk there.
func (l *leadership) sealedRecords(ctx context.Context, server *dfs.Server, c *meta.Chunk) (map[uint32]*chunkpb.IntentsReply_Record, error) {
	ctx, cancel := context.WithTimeout(ctx, replayTimeout)
	defer cancel()
	conn, err := l.s.pool.Conn(server.Addr)
	if err != nil {
		return nil, err
	}
	client, cluster := chunkpb.NewChunkClient(conn), l.s.cluster.Load()
	sealed, err := client.Seal(ctx, &chunkpb.SealRequest{Chunk: uint64(c.ID), Cluster: cluster}, grpc.WaitForReady(false))
	if err != nil {
		return nil, err
	}
	if e := dfs.Errno(sealed.Errno); e != dfs.OK {
		return nil, e
	}
	out := map[uint32]*chunkpb.IntentsReply_Record{}
	for from := uint32(dfs.FirstRecord); ; {
		r, err := client.Intents(ctx, &chunkpb.IntentsRequest{Chunk: uint64(c.ID), Cluster: cluster, From: from})
		if err != nil {
			return nil, err
		}
		if e := dfs.Errno(r.Errno); e != dfs.OK {
			return nil, fmt.Errorf("%s: %w", r.Error, e)
		}
		if dfs.SessionID(r.Session) != c.Owner {
			return nil, fmt.Errorf("it says that the chunk is of session %d", r.Session)
		}
		for _, rec := range r.Records {
			if len(rec.Intents) > 0 {
				out[rec.Record] = rec
			}
		}
		if r.Next <= from {
			return out, nil
		}
		from = r.Next
	}
}
