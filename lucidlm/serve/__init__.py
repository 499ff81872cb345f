"""The server: models come in, HTTP for programs goes out. OpenAI's interface, and routes of our own."""
