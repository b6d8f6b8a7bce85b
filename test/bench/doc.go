// Command bench measures a file system through a folder of it: the workloads that
// scripts/bench runs. It knows nothing of what stands behind the folder, so that
// each system is measured by the same calls. A result is a rate or a time of one
// workload; several runs of several systems become a table of medians and ratios.
package main
