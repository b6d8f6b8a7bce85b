package rpc

import (
	"encoding/binary"
	"errors"
	"fmt"

	"dfs"
)

// FragmentFiles is the name under which a chunk server hands out its fragment files.
func FragmentFiles(cluster dfs.ClusterID, server dfs.NodeID) string {
	return fmt.Sprintf("dfs/%s/%s", cluster, server)
}

// FragmentKey asks for the file of a fragment.
func FragmentKey(chunk dfs.ChunkID, fragment uint32) []byte {
	return binary.LittleEndian.AppendUint32(binary.LittleEndian.AppendUint64(nil, uint64(chunk)), fragment)
}

// ParseFragmentKey is the reverse.
func ParseFragmentKey(key []byte) (chunk dfs.ChunkID, fragment uint32, err error) {
	if len(key) != 12 {
		return 0, 0, errors.New("not a request for a fragment file")
	}
	return dfs.ChunkID(binary.LittleEndian.Uint64(key)), binary.LittleEndian.Uint32(key[8:]), nil
}
