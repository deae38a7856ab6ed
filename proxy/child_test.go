package proxy

const childEnv = "PROXY_TEST_CHILD"

func runChild(string) int { return 0 }
