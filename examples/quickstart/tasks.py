from amqpq import App

app = App("topology.yaml")


@app.task
def add(x: int, y: int) -> int:
    return x + y
