//go:build !linux

package s3

const interfacesEnv = "S3_INTERFACES_CLIENT"

func runInterfacesClient() error { return nil }
