from amqpq import App
from amqpq.log import task_logger

app = App("topology.yaml")
logger = task_logger(__name__)


@app.task
def add(x: int, y: int) -> int:
    logger.info("adding")
    return x + y


@app.task
def resize(width: int) -> int:
    return width // 2
