package main

import (
	"fmt"
	"io"
	"net/http"
	"os"
	"time"
)

// fetchProfile takes a CPU profile of a server over a window and saves it; the result comes when it is done.
func fetchProfile(v *server, path string, window time.Duration) <-chan error {
	done := make(chan error, 1)
	go func() { done <- saveProfile(v, path, max(1, int(window.Seconds()))) }() // ends with the server's answer
	return done
}

func saveProfile(v *server, path string, seconds int) (err error) {
	client := http.Client{Timeout: time.Duration(seconds)*time.Second + 30*time.Second}
	resp, err := client.Get(fmt.Sprintf("http://%s/debug/pprof/profile?seconds=%d", v.address(), seconds))
	if err != nil {
		return fmt.Errorf("profile: %w", err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("profile: %s", resp.Status)
	}
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	defer func() {
		if closeErr := f.Close(); err == nil {
			err = closeErr
		}
	}()
	_, err = io.Copy(f, resp.Body)
	return err
}
