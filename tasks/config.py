"""Celery's settings, read from vgen's when Celery first asks for them. Reasons beside each; measured ones in docs."""

from pipeline.policy.routes import CPU_QUEUE
from pipeline.settings import current_settings
from tasks.broker import broker_options
from tasks.upkeep.schedule import beat_schedule as periodic_work

_settings = current_settings()

_broker = broker_options(_settings)
broker_url = _broker.url
broker_use_ssl = _broker.use_ssl or False
broker_transport_options = _broker.transport

# Rows hold every result: a result backend would only be one more thing to lose.
task_ignore_result = True
task_store_errors_even_if_ignored = False
result_backend = None

# Messages hold ids; nothing but JSON is ever read.
accept_content = ["json"]
task_serializer = "json"
result_serializer = "json"

# A message is acknowledged when its task has ended, and given back when its worker's child dies.
task_acks_late = True
task_reject_on_worker_lost = True
worker_prefetch_multiplier = 1
worker_cancel_long_running_tasks_on_connection_loss = False

task_default_queue = CPU_QUEUE
task_default_exchange = ""  # the broker's own, which needs no bindings (tasks.app)
task_create_missing_queues = True
# A GPU slot does not wait for a broker: the dispatcher publishes again what could not be sent.
task_publish_retry_policy = {"max_retries": 2, "interval_start": 0.1, "interval_step": 0.2, "interval_max": 0.4}
broker_connection_retry_on_startup = True
broker_connection_max_retries = None

# Flower and `celery events` see the line at work from the moment a task is received; prompts are never in a message.
# No event when it is sent: that one would cost a finished step a further round to the broker.
worker_send_task_events = True
worker_consumer = "tasks.worker.consumer:Consumer"
task_send_sent_event = False
worker_hijack_root_logger = False
worker_proc_alive_timeout = 60.0

imports: tuple[str, ...] = ()
beat_schedule = periodic_work(_settings)
timezone = "UTC"
enable_utc = True
