package server

import (
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"math/rand/v2"
	"path/filepath"

	"dfs"
	"dfs/internal/disk"
)

// identityFile says whose folder this is. It is one line of JSON for people to
// read, then its checksum.
const (
	identityFile     = "identity"
	identityVersion  = 1
	identityBytesMax = 4096
)

// identity is who a master is, for ever.
type identity struct {
	Format  string        `json:"format"`
	Version int           `json:"version"`
	Cluster dfs.ClusterID `json:"cluster"` // 0: not admitted yet
	Node    dfs.NodeID    `json:"node"`
	Name    string        `json:"name"`
	Founder bool          `json:"founder,omitempty"` // made the cluster, with --bootstrap
}

const identityFormat = "dfs-master"

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// newID is a random number that is not 0.
func newID() uint64 {
	for {
		if n := rand.Uint64(); n != 0 {
			return n
		}
	}
}

// readIdentity reads a folder's identity; fs.ErrNotExist when it has none.
func readIdentity(d disk.FS, dir string) (identity, error) {
	name := filepath.Join(dir, identityFile)
	b, err := disk.ReadFile(d, name, identityBytesMax)
	if err != nil {
		return identity{}, err
	}
	id, err := decodeIdentity(b)
	if err != nil {
		return identity{}, fmt.Errorf("%s: %w", name, err)
	}
	return id, nil
}

var errIdentity = errors.New("damaged: restore it from a backup, or remove this master from the cluster and let it join with an empty folder")

func decodeIdentity(b []byte) (identity, error) {
	var sum uint32
	i := len(b) - 9 // eight digits and the newline
	if i < 1 || b[i-1] != '\n' {
		return identity{}, errIdentity
	}
	if _, err := fmt.Sscanf(string(b[i:]), "%08x\n", &sum); err != nil || sum != crc32.Checksum(b[:i], castagnoli) {
		return identity{}, errIdentity
	}
	var id identity
	if err := json.Unmarshal(b[:i], &id); err != nil || id.Format != identityFormat {
		return identity{}, errIdentity
	}
	if id.Version != identityVersion {
		return identity{}, fmt.Errorf("format version %d, this program knows %d: use the version of dfs that wrote it", id.Version, identityVersion)
	}
	if id.Node == 0 {
		return identity{}, errIdentity
	}
	return id, nil
}

func (id identity) encode() ([]byte, error) {
	id.Format, id.Version = identityFormat, identityVersion
	b, err := json.Marshal(id)
	if err != nil {
		return nil, err
	}
	b = append(b, '\n')
	return fmt.Appendf(b, "%08x\n", crc32.Checksum(b, castagnoli)), nil
}

func writeIdentity(d disk.FS, dir string, id identity) error {
	b, err := id.encode()
	if err != nil {
		return err
	}
	return disk.WriteFile(d, filepath.Join(dir, identityFile), b)
}

// identify finds out who this master is, or makes it somebody.
func identify(d disk.FS, cfg *Config) (identity, error) {
	id, err := readIdentity(d, cfg.Dir)
	switch {
	case err == nil && id.Name != cfg.Name:
		return identity{}, fmt.Errorf("the folder %s is of master %s, not of %s: use --name %s, or another folder", cfg.Dir, id.Name, cfg.Name, id.Name)
	case err == nil && cfg.Bootstrap && !id.Founder:
		// A second cluster under the id of the first, or beside the one it was to enter.
		return identity{}, fmt.Errorf("the folder %s is of a master that was started to join a cluster: start it without --bootstrap, or use an empty folder", cfg.Dir)
	case err == nil:
		return id, nil
	case !errors.Is(err, fs.ErrNotExist):
		return identity{}, err
	}
	id = identity{Node: dfs.NodeID(newID()), Name: cfg.Name}
	switch {
	case cfg.Bootstrap:
		id.Cluster, id.Founder = dfs.ClusterID(newID()), true
	case len(cfg.Join) == 0:
		return identity{}, fmt.Errorf("the folder %s holds no master: make a new cluster with --bootstrap (once, on one master), or join one with --join ADDRESS", cfg.Dir)
	}
	return id, writeIdentity(d, cfg.Dir, id)
}
