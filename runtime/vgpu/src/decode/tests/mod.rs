mod forms;
mod refused;
