package server

import (
	"fmt"

	"dfs"
	"dfs/internal/disk"
)

var osFS = disk.OS()

// signed is text with the checksum of an identity file.
func signed(text string) []byte { return fmt.Appendf([]byte(text), "%08x\n", dfs.CRC([]byte(text))) }
