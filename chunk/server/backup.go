package server

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"dfs"
	"dfs/internal/disk"
	"dfs/internal/turn"
	"dfs/proto/chunkpb"
)

// Copies of the masters' state are files in a folder of their own beside the chunks. What
// is in them is the masters' business.
const (
	backupsDir      = "backups"
	backupSuffix    = ".backup"
	backupPart      = ".part" // what is still coming, or never came to its end
	backupPartBytes = 1 << 20
	backupsKeepMax  = 100
)

// backups sees to it that one copy comes at a time.
type backups struct {
	mu turn.Mutex // held while one is written
}

// backupName is the name of a copy's file: those that are later come later in order of name.
func backupName(b *chunkpb.BackupInfo) string {
	return fmt.Sprintf("%016x-%016x-%016x-%016x%s", b.Cluster, b.Term, b.Index, b.MadeUnix, backupSuffix)
}

func parseBackupName(name string) (*chunkpb.BackupInfo, bool) {
	text, ok := strings.CutSuffix(name, backupSuffix)
	parts := strings.Split(text, "-")
	if !ok || len(parts) != 4 {
		return nil, false
	}
	var n [4]uint64
	for i, p := range parts {
		var err error
		if n[i], err = strconv.ParseUint(p, 16, 64); err != nil || len(p) != 16 {
			return nil, false
		}
	}
	return &chunkpb.BackupInfo{Cluster: n[0], Term: n[1], Index: n[2], MadeUnix: n[3], Name: name}, true
}

func (s *Server) disk() disk.FS {
	if s.cfg.FS != nil {
		return s.cfg.FS
	}
	return disk.OS()
}

// PutBackup keeps a copy of the masters' state, and removes those that are older than the
// ones that are to be kept.
func (s *Server) PutBackup(in chunkpb.Chunk_PutBackupServer) error {
	first, err := in.Recv()
	if err != nil {
		return err
	}
	info := first.Info
	if info == nil || dfs.ClusterID(info.Cluster) != s.store.Cluster() || first.Keep < 1 || first.Keep > backupsKeepMax {
		return status.Error(codes.InvalidArgument, "a backup of this cluster is to be sent, and how many are to be kept")
	}
	s.backups.mu.Lock()
	defer s.backups.mu.Unlock()
	d, dir := s.disk(), filepath.Join(s.cfg.Dirs[0], backupsDir)
	if err := disk.MkdirSync(d, dir); err != nil {
		return err
	}
	if err := s.pruneBackups(d, dir, backupPart, 0); err != nil { // of a server that was killed
		return err
	}
	name := filepath.Join(dir, backupName(info))
	if err := receiveBackup(d, name+backupPart, in); err != nil {
		return errors.Join(err, d.Remove(name+backupPart))
	}
	if err := d.Rename(name+backupPart, name); err != nil {
		return err
	}
	if err := d.SyncDir(dir); err != nil {
		return err
	}
	if err := s.pruneBackups(d, dir, backupSuffix, int(first.Keep)); err != nil {
		return err
	}
	return in.SendAndClose(&chunkpb.PutBackupReply{})
}

// receiveBackup writes what comes, to the disk.
func receiveBackup(d disk.FS, name string, in chunkpb.Chunk_PutBackupServer) (err error) {
	f, err := d.Create(name)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	for off := int64(0); ; {
		part, err := in.Recv()
		if err != nil {
			return fmt.Errorf("it ended before its last part: %w", err)
		}
		if part.Last {
			return f.Sync()
		}
		if dfs.CRC(part.Data) != part.Crc {
			return fmt.Errorf("a part was damaged on the way: %w", dfs.EIO)
		}
		if _, err := f.WriteAt(part.Data, off); err != nil {
			return err
		}
		off += int64(len(part.Data))
	}
}

// pruneBackups removes the oldest files with a suffix beyond keep.
func (s *Server) pruneBackups(d disk.FS, dir, suffix string, keep int) error {
	names, err := backupFiles(d, dir, suffix)
	if err != nil {
		return err
	}
	for _, name := range names[:max(len(names)-keep, 0)] {
		if err := d.Remove(filepath.Join(dir, name)); err != nil {
			return err
		}
	}
	return nil
}

// backupFiles lists files with a suffix in order of name.
func backupFiles(d disk.FS, dir, suffix string) (names []string, err error) {
	entries, err := d.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	for _, e := range entries {
		if !e.Dir && strings.HasSuffix(e.Name, suffix) {
			names = append(names, e.Name)
		}
	}
	slices.Sort(names)
	return names, err
}

// Backups lists the copies of the masters' state that are here, the oldest first.
func (s *Server) Backups(context.Context, *chunkpb.BackupsRequest) (*chunkpb.BackupsReply, error) {
	d := s.disk()
	out := &chunkpb.BackupsReply{}
	for _, dir := range s.cfg.Dirs { // disks may have changed their order
		names, err := backupFiles(d, filepath.Join(dir, backupsDir), backupSuffix)
		if err != nil {
			return nil, err
		}
		for _, name := range names {
			if b, ok := parseBackupName(name); ok {
				info, err := d.Stat(filepath.Join(dir, backupsDir, name))
				if err != nil {
					continue // it was removed meanwhile
				}
				b.Bytes = uint64(info.Size)
				out.Backups = append(out.Backups, b)
			}
		}
	}
	return out, nil
}

// GetBackup sends a copy of the masters' state.
func (s *Server) GetBackup(req *chunkpb.GetBackupRequest, out chunkpb.Chunk_GetBackupServer) error {
	if _, ok := parseBackupName(req.Name); !ok { // nor a way out of the folder
		return status.Errorf(codes.InvalidArgument, "%.100q is no name of a backup", req.Name)
	}
	d := s.disk()
	for _, dir := range s.cfg.Dirs {
		f, err := d.Open(filepath.Join(dir, backupsDir, req.Name))
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err != nil {
			return err
		}
		return errors.Join(sendBackup(f, out), f.Close())
	}
	return status.Errorf(codes.NotFound, "no backup %s is here", req.Name)
}

func sendBackup(f disk.File, out chunkpb.Chunk_GetBackupServer) error {
	for off := int64(0); ; {
		b := make([]byte, backupPartBytes) // gRPC keeps it until it is sent
		n, err := f.ReadAt(b, off)
		if n > 0 {
			if err := out.Send(&chunkpb.BackupData{Data: b[:n]}); err != nil {
				return err
			}
		}
		off += int64(n)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}
