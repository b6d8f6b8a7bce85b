package server

import (
	"bufio"
	"context"
	"io"
	"time"

	"dfs/meta"
	"dfs/meta/backup"
	"dfs/meta/store"
	"dfs/proto/adminpb"
)

// backupPartBytes are sent at a time.
const backupPartBytes = 256 << 10

// writeBackup writes the rows as they are at one moment. Commands are applied meanwhile.
func (s *Server) writeBackup(w io.Writer) (head backup.Head, tail backup.Tail, err error) {
	buffered := bufio.NewWriterSize(w, backupPartBytes)
	err = s.node.FrozenRows(func(r meta.Reader, p store.Position) (err error) {
		head = backup.Head{Index: p.Index, Term: p.Term, Made: time.Now().UTC(), Program: s.cfg.Version}
		tail, err = backup.Write(buffered, head, r)
		return err
	})
	if err == nil {
		err = buffered.Flush()
	}
	return head, tail, err
}

// Backup sends all that the masters know, as it is when the call comes.
func (s *Server) Backup(_ *adminpb.BackupRequest, out adminpb.Admin_BackupServer) error {
	ctx := out.Context()
	if s.leading.Load() == nil {
		return s.notReady()
	}
	if err := s.read(ctx, func(meta.View) error { return nil }); err != nil {
		return err
	}
	_, _, err := s.writeBackup(partWriter{ctx, func(b []byte) error {
		return out.Send(&adminpb.BackupPart{Data: b})
	}})
	return err
}

// partWriter sends what is written, in pieces of its own.
type partWriter struct {
	ctx  context.Context
	send func([]byte) error
}

// Write implements io.Writer.
func (p partWriter) Write(b []byte) (int, error) {
	for n := 0; n < len(b); {
		part := append([]byte(nil), b[n:min(len(b), n+backupPartBytes)]...) // gRPC keeps it until it is sent
		if err := p.ctx.Err(); err != nil {
			return n, err
		}
		if err := p.send(part); err != nil {
			return n, err
		}
		n += len(part)
	}
	return len(b), nil
}
