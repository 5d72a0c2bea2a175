from tasks import add

result = add.delay(2, 3)
print("sent", result.id)
print("2 + 3 =", result.get(timeout=10))
